"""Every Triton kernel of the package at the tiles that its op launches, and what a launch costs.

The shapes are those of decoding Qwen3-0.6B for 4 requests of 20 beams, and of a training step of
8,192 tokens on SmolLM2-135M's vocabulary.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch

from store_engine.kernels.triton import add_rms_norm as norm
from store_engine.kernels.triton import beam_attention as attention
from store_engine.kernels.triton import code_logprobs as codes
from store_engine.kernels.triton import cross_entropy_rows as rows_loss
from store_engine.kernels.triton import linear_cross_entropy as lce
from store_engine.kernels.triton import masked_softmax as softmax
from store_engine.kernels.triton import qk_rope_cache as rope
from store_engine.kernels.triton import rank_candidates as candidates
from store_engine.kernels.triton import rank_leaves as rank
from store_engine.kernels.triton import score_evidence as evidence
from store_engine.kernels.triton import swiglu
from store_engine.kernels.triton import top_evidence as top
from store_engine.kernels.triton import tree_attention as tree
from store_engine.kernels.triton import trie_select as select
from store_engine.kernels.triton import trie_topk as trie

# types of the kernels' arguments; "*x" is the dtype under test
TYPES = {
    "*x": "hidden_ptr weight_ptr x_ptr y_ptr dx_ptr dy_ptr logits_ptr q_ptr keys_ptr values_ptr "
    "out_ptr residual_ptr normed_ptr sum_ptr gate_up_ptr qkv_ptr q_weight_ptr k_weight_ptr",
    "*fp32": "losses_ptr lse_ptr dlosses_ptr dhidden_ptr dweight_ptr scores_ptr top_scores_ptr "
    "cosine_ptr sine_ptr part_ptr data_ptr weights_ptr evidence_ptr logprobs_ptr",
    "*i64": "nodes_ptr num_valid_ptr child_begin_ptr tokens_ptr item_begin_ptr top_keys_ptr "
    "top_parents_ptr top_tokens_ptr top_nodes_ptr top_num_valid_ptr context_lengths_ptr "
    "targets_ptr child_keys_ptr kept_keys_ptr entry_keys_ptr",
    "*i32": "plan_ptr bounds_ptr ranges_ptr words_ptr ranks_ptr is_bad_ptr slots_ptr parents_ptr "
    "set_index_ptr excluded_ptr key_end_ptr kept_at_ptr rows_ptr positions_ptr counters_ptr "
    "back_ptr leaf_begin_ptr ranked_ptr begins_ptr vote_items_ptr events_ptr items_ptr "
    "place_of_row_ptr top_rows_ptr top_places_ptr beams_ptr codes_ptr places_ptr",
    "*i1": "tree_mask_ptr",
    "*u8": "was_bad_ptr top_is_bad_ptr",
    "i32": "num_rows num_tiles vocab_size hidden_size stride beam_width codebook_size num_words "
    "width num_splits num_heads head_dim num_context num_tree stride_batch stride_slot length "
    "intermediate_size num_kv_heads tree_begin depth split_size num_excluded num_steps "
    "first begin parent_begin num_slots stride_beam size num_events num_items longest num_places "
    "num_exclusion_steps num_keys k num_codes num_found",
    "fp32": "scale eps",
}
TYPE_OF = {name: kind for kind, names in TYPES.items() for name in names.split()}
# a search on the device keeps its integers in 32 bits
NARROW = {
    **dict.fromkeys(("nodes_ptr", "num_valid_ptr", "child_begin_ptr", "item_begin_ptr"), "*i32"),
    **dict.fromkeys(("top_parents_ptr", "top_tokens_ptr", "top_nodes_ptr"), "*i32"),
    **{"top_num_valid_ptr": "*i32", "context_lengths_ptr": "*i32", "tokens_ptr": "*u16"},
}


class Cost(NamedTuple):
    """What one launch reads and writes at least, and computes."""

    num_bytes: float
    flops: float


class Kernel(NamedTuple):
    """One kernel as it is launched."""

    name: str
    function: Any
    dtype: str
    config: dict[str, Any]
    cost: Cost
    types: dict[str, str] = {}  # noqa: RUF012  # of arguments, where they are not those of TYPES


# decoding: Qwen3-0.6B, 4 requests of 20 beams, contexts of 512 tokens, 256 codes, all of them taken
ROWS, HIDDEN, INTERMEDIATE, HEADS, KV_HEADS, HEAD_DIM = 80, 1024, 3072, 16, 8, 128
BATCH, BEAMS, CONTEXT, TREE, DEPTH, CODES = 4, 20, 512, 60, 4, 256
EVENTS, VOTES = 20, 300
# training: SmolLM2-135M's head
TOKENS, TEXT_HIDDEN, TEXT_VOCAB = 8192, 576, 49152


def all_kernels() -> Iterator[Kernel]:
    """Every kernel of the package at the tile sizes that its op launches it with."""
    for dtype in (torch.float32, torch.bfloat16):
        yield from loss_kernels(dtype)
        yield from attention_kernels(dtype)
        yield from layer_kernels(dtype)
    yield from trie_kernels()
    yield from evidence_kernels()
    yield from softmax_kernels()


def loss_kernels(dtype: torch.dtype) -> Iterator[Kernel]:
    """The losses of a training step over text."""
    size, short = dtype.itemsize, SHORT[dtype]
    product = 2.0 * TOKENS * TEXT_HIDDEN * TEXT_VOCAB
    inputs = (TOKENS + TEXT_VOCAB) * TEXT_HIDDEN * size
    outputs = {"fwd": 0, "dhidden": 4 * TOKENS * TEXT_HIDDEN, "dweight": 4 * inputs // size}
    for step, written in outputs.items():
        name = f"linear_cross_entropy_{step}"
        cost = Cost(inputs + written, product * (1 if step == "fwd" else 2))
        yield Kernel(name, getattr(lce, f"_{name}_kernel"), short, lce._launch_config(dtype), cost)
    config = {**rows_loss._launch_config(TEXT_VOCAB), "GRADIENT": True}
    chunk = 682 * TEXT_VOCAB  # rows of a chunk, and their logits
    cost = Cost(3.0 * chunk * size, 8.0 * chunk)
    yield Kernel("cross_entropy_rows", rows_loss._cross_entropy_rows_kernel, short, config, cost)


def attention_kernels(dtype: torch.dtype) -> Iterator[Kernel]:
    """Decode attention with a mask, and by ancestors."""
    size, short = dtype.itemsize, SHORT[dtype]
    for head_dim in (64, 128):
        shared = attention._launch_config(dtype, num_queries=64, head_dim=head_dim)
        queries = 2 * ROWS * HEADS * head_dim * size
        context = 2 * BATCH * CONTEXT * KV_HEADS * head_dim * size
        product = 4.0 * ROWS * HEADS * head_dim
        cost = Cost(queries + context * (CONTEXT + TREE) / CONTEXT, product * (CONTEXT + TREE))
        name = f"beam_attention,head_dim={head_dim}"
        config = {**shared, "GROUP": HEADS // KV_HEADS}
        yield Kernel(name, attention._beam_attention_kernel, short, config, cost)
        parts = 2 * 5 * ROWS * HEADS * (head_dim + 1) * 4  # of five splits, written and read
        gathered = 2 * ROWS * DEPTH * KV_HEADS * head_dim * size
        for kind, merged in (("", parts), (",one split", 0)):
            name = f"tree_attention,head_dim={head_dim}{kind}"
            cost = Cost(queries + context + gathered + merged, product * (CONTEXT + DEPTH))
            config = {**tree._launch_config(dtype, 64, head_dim), "GROUP": HEADS // KV_HEADS}
            config["SPLIT"] = merged > 0
            yield Kernel(name, tree._tree_attention_kernel, short, config, cost, NARROW)


def layer_kernels(dtype: torch.dtype) -> Iterator[Kernel]:
    """What a layer does between its products."""
    size, short = dtype.itemsize, SHORT[dtype]
    config = {**norm._launch_config(HIDDEN), "ADD": True, "ROWS": True}
    cost = Cost(4.0 * ROWS * HIDDEN * size, 5.0 * ROWS * HIDDEN)
    yield Kernel("add_rms_norm", norm._add_rms_norm_kernel, short, config, cost)
    config = swiglu._launch_config(INTERMEDIATE)
    cost = Cost(3.0 * ROWS * INTERMEDIATE * size, 5.0 * ROWS * INTERMEDIATE)
    yield Kernel("swiglu", swiglu._swiglu_kernel, short, config, cost)
    config = {**rope._launch_config(HEAD_DIM), "Q_NORM": True, "K_NORM": True}
    entries = ROWS * (HEADS + 2 * KV_HEADS) * HEAD_DIM
    cost = Cost(2.0 * entries * size + 4 * ROWS * HEAD_DIM, 9.0 * entries)
    yield Kernel("qk_rope_cache", rope._qk_rope_cache_kernel, short, config, cost)


def trie_kernels() -> Iterator[Kernel]:
    """Both forms of a step of the beam search."""
    children = ROWS * CODES
    logits = Cost(children * (2.0 + 2), 5.0 * children)
    for width in (20, 128, 512):
        config = trie._launch_config(width)
        merged = Cost(BATCH * (20.0 * config["BLOCK_K"] * 8 + width * 28), 0)
        name = f"trie_topk_merge,width={width}"
        yield Kernel(name, trie._trie_topk_merge_kernel, "bf16", config, merged)
        config |= {"CHILDREN": False, "FILTER": True, "BLOCK_V": CODES}
        name = f"trie_topk_beams,width={width}"
        yield Kernel(name, trie._trie_topk_beams_kernel, "bf16", config, logits)
    keys = Cost(children * (2.0 + 2 + 8), 5.0 * children)
    for codebook_size in (CODES, 2048):
        for normalize in ("codebook", "children"):
            config = {"CHILDREN": normalize == "children", "FILTER": True}
            config |= select._keys_config(codebook_size)
            name = f"trie_select_keys,k={codebook_size},{normalize}"
            function = select._trie_select_keys_kernel
            cost = Cost(*(x * codebook_size / CODES for x in keys))
            yield Kernel(name, function, "bf16", config, cost, NARROW)
    cost = Cost(3 * 8.0 * children, 20.0 * children)  # two digits, and what is kept
    function = select._trie_select_top_kernel
    config = {**select.top_config(), "BACK": True}
    yield Kernel("trie_select_top", function, "bf16", config, cost, NARROW)
    config = {**rank._launch_config(), "FILTER": True}
    cost = Cost(BATCH * BEAMS * (4.0 + 4 + 8 + 8), 0)
    yield Kernel("rank_leaves", rank._rank_leaves_kernel, "bf16", config, cost, NARROW)


def evidence_kernels() -> Iterator[Kernel]:
    """What evidence adds to a search: 20 events of 300 votes, a fifth of the candidates named."""
    entries, named = BATCH * EVENTS * VOTES, BATCH * BEAMS // 4
    look_up = EVENTS * (VOTES.bit_length() + 2) * 4.0  # bytes of an item in every row
    config = evidence.launch_config(EVENTS)
    cost = Cost((BATCH * BEAMS + named) * look_up, 0)
    yield Kernel("score_evidence", evidence._score_evidence_kernel, "bf16", config, cost)
    cost = Cost(entries * (look_up + 12), 0)
    function = top._top_evidence_keys_kernel
    yield Kernel("top_evidence_keys", function, "bf16", config | {"FILTER": True}, cost)
    cost = Cost(3 * 8.0 * entries, 0)  # two digits, and what is kept
    function = top._top_evidence_best_kernel
    yield Kernel("top_evidence_best", function, "bf16", select.top_config(), cost)
    cost = Cost(2.0 * named * CODES, 5.0 * named * CODES)
    function, types = codes._code_logprobs_kernel, dict.fromkeys(("beams_ptr", "codes_ptr"), "*i32")
    config = codes._launch_config(CODES)
    yield Kernel("code_logprobs", function, "bf16", config, cost, types)
    cost, function = Cost((BATCH * BEAMS + named) * 32.0, 0), candidates._rank_candidates_kernel
    yield Kernel("rank_candidates", function, "bf16", candidates._launch_config(), cost)


def softmax_kernels() -> Iterator[Kernel]:
    """The masked softmax of 8,192 rows, all of each allowed."""
    for step in ("fwd", "bwd"):
        for vocab_size in (256, 1 << 16):
            config = {**softmax._launch_config(vocab_size), "LOG": False}
            entries = TOKENS * vocab_size
            cost = Cost(2.0 * entries * (2 if step == "fwd" else 3), 5.0 * entries)
            name = f"masked_softmax_{step},block={config['BLOCK']}"
            function = getattr(softmax, f"_masked_softmax_{step}_kernel")
            yield Kernel(name, function, "bf16", config, cost)


SHORT = {torch.float32: "fp32", torch.bfloat16: "bf16"}
