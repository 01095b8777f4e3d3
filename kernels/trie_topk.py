"""One step of trie-constrained beam search: the best children of each request's beams.

    score = beam's score + logit of the child's code - log-sum-exp

over the whole codebook ("codebook") or over the beam's own children ("children"). Of equal scores
the lower node id, that is the lower SID, is first. A candidate's score and node id are packed into
one 64-bit key that orders both, so a tile of children is merged into a sorted list of the best by
one elementwise maximum (of two sorted lists, one reversed) and one sort; most tiles hold nothing
better and are skipped, and so are beams whose score cannot rise above the worst of the best (log p
<= 0).

Two launches: the beams of a request are shared out among programs, whose lists are then merged.
Memory-bound, on the logits; no (batch, beam_width, children) tensor exists, no shape depends on the
data, and a new catalogue compiles nothing. Ours; the arrays are those of the C++ core.
"""

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from store_engine.kernels._dispatch import Backend, use_triton
from store_engine.kernels.bitmask import pack_bitmask

_NUM_PROGRAMS = 132  # wanted at least, one for each multiprocessor of an H100
_MAX_NODES = 1 << 32  # of one depth: a node id has 32 bits of a key
_NOTHING: tl.constexpr = tl.constexpr(-(1 << 63))  # key below every candidate's


class TopChildren(NamedTuple):
    """The best children of each request; slots from num_valid on: score -inf, the rest -1."""

    scores: Tensor  # (batch, width) float32, descending
    parents: Tensor  # (batch, width) int64, which beam was extended
    tokens: Tensor  # (batch, width) int64, the code
    nodes: Tensor  # (batch, width) int64, of the next depth
    num_valid: Tensor  # (batch,) int64


class ItemFilter(NamedTuple):
    """Which items each request may still get; a node with none of them below is no candidate."""

    item_begin: Tensor  # (num_children + 1,) int64: where each child's items begin, in SID order
    words: Tensor  # (batch, num_words) int32 bitmask over the items in SID order
    ranks: Tensor  # (batch, num_words) int32: allowed items before each word


class Level(NamedTuple):
    """The trie's step from one depth to the next, in CSR form."""

    child_begin: Tensor  # (num_nodes + 1,) int64: where the children of each node begin
    tokens: Tensor  # (num_children,) integers: the code of each child, ascending under one parent


def item_filter(is_allowed: Tensor, item_begin: Tensor) -> ItemFilter:
    """Builds the filter of a batch for one level; words and ranks may be shared between levels.

    Args:
        is_allowed: (batch, num_items) bool, items in SID order.
        item_begin: (num_children + 1,) int64, in SID order.
    """
    room = 32 - is_allowed.shape[1] % 32  # at least one bit more: the end has a rank too
    padded = F.pad(is_allowed, (0, room))
    counts = padded.unflatten(1, (-1, 32)).sum(-1)
    return ItemFilter(item_begin, pack_bitmask(padded), (counts.cumsum(1) - counts).int())


def trie_topk_ref(
    logits: Tensor,
    scores: Tensor,
    nodes: Tensor,
    num_valid: Tensor,
    level: Level,
    width: int,
    *,
    normalize: Literal["codebook", "children"] = "codebook",
    allowed: ItemFilter | None = None,
) -> TopChildren:
    """The definition of the op, in plain PyTorch. Same arguments as `trie_topk`."""
    batch, beam_width, _ = logits.shape
    is_valid = torch.arange(beam_width, device=logits.device) < num_valid[:, None]
    nodes = nodes.clamp(min=0)
    first = level.child_begin[nodes]
    degree = (level.child_begin[nodes + 1] - first) * is_valid
    slots = torch.arange(max(int(degree.max()), 1), device=logits.device)
    is_child = slots < degree[:, :, None]  # (batch, beam_width, largest degree)
    child = (first[:, :, None] + slots) * is_child
    code = level.tokens[child].long()
    chosen = logits.float().gather(2, code).masked_fill(~is_child, -float("inf"))
    log_sum = (chosen if normalize == "children" else logits.float()).logsumexp(2, keepdim=True)
    log_sum = log_sum.masked_fill(log_sum == -float("inf"), 0.0)
    score = scores[:, :, None] + (chosen - log_sum)
    if allowed is not None:
        is_item = (allowed.words[:, :, None] >> torch.arange(32, device=logits.device)) & 1
        before = F.pad(is_item.flatten(1).cumsum(1), (1, 0))
        begin, end = allowed.item_begin[child], allowed.item_begin[child + 1]
        request = torch.arange(batch, device=logits.device)[:, None, None]
        is_alive = before[request, end] > before[request, begin]
        score = score.masked_fill(~is_alive, -float("inf"))
    score = score.masked_fill(~is_valid[:, :, None], -float("inf"))

    # by node, then by score with a stable sort: of equal scores the lower node is first
    by_node = child.flatten(1).argsort(1)
    by_score = score.flatten(1).gather(1, by_node).argsort(dim=1, descending=True, stable=True)
    best = by_node.gather(1, by_score)[:, :width]
    top = score.flatten(1).gather(1, best)
    is_beam = top > -float("inf")
    parents = best // len(slots)
    tokens, children = (x.flatten(1).gather(1, best) for x in (code, child))
    found = [x.masked_fill(~is_beam, -1) for x in (parents, tokens, children)]
    missing = (0, width - best.shape[1])
    padded = [F.pad(x, missing, value=-1) for x in found]
    top = F.pad(top, missing, value=-float("inf"))
    return TopChildren(top, padded[0], padded[1], padded[2], is_beam.sum(1))


@triton.jit
def _pack(score, child):
    """A key that orders by score, then by lower node id."""
    bits = score.to(tl.int32, bitcast=True)
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)  # the order of floats as integers
    return (ordered.to(tl.int64) << 32) | (0xFFFFFFFF - child)


@triton.jit
def _unpack_score(key):
    ordered = (key >> 32).to(tl.int32)
    return (ordered ^ ((ordered >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def _rank(words_ptr, ranks_ptr, item, mask):
    """Allowed items before `item`: the directory's count, and the bits before it in its word."""
    word = tl.load(words_ptr + (item >> 5), mask, other=0).to(tl.int64)
    bits = word & ((1 << (item & 31)) - 1)
    bits = bits - ((bits >> 1) & 0x55555555)
    bits = (bits & 0x33333333) + ((bits >> 2) & 0x33333333)
    bits = (bits + (bits >> 4)) & 0x0F0F0F0F
    count = ((bits * 0x01010101) >> 24) & 0xFF
    return tl.load(ranks_ptr + (item >> 5), mask, other=0) + count


@triton.jit
def _log_sum_exp(logits_ptr, tokens_ptr, begin, end, GATHER: tl.constexpr, BLOCK: tl.constexpr):
    """Over logits[begin:end], or with GATHER over the logits of tokens[begin:end]."""
    peak = tl.full((), float("-inf"), tl.float32)
    total = tl.full((), 0.0, tl.float32)
    for first in range(begin, end, BLOCK):
        at = first + tl.arange(0, BLOCK).to(tl.int64)
        mask = at < end
        col = at
        if GATHER:
            col = tl.load(tokens_ptr + at, mask, other=0).to(tl.int64)
        x = tl.load(logits_ptr + col, mask, other=float("-inf")).to(tl.float32)
        new_peak = tl.maximum(peak, tl.max(x))
        shift = tl.where(new_peak == float("-inf"), 0.0, new_peak)
        total = total * tl.exp(peak - shift) + tl.sum(tl.exp(x - shift))
        peak = new_peak
    return tl.where(peak == float("-inf"), 0.0, peak + tl.log(tl.where(total == 0, 1.0, total)))


@triton.jit
def _trie_topk_beams_kernel(
    logits_ptr,
    scores_ptr,
    nodes_ptr,
    num_valid_ptr,
    child_begin_ptr,
    tokens_ptr,
    item_begin_ptr,
    words_ptr,
    ranks_ptr,
    top_keys_ptr,
    is_bad_ptr,
    beam_width,
    codebook_size,
    num_words,
    width,
    CHILDREN: tl.constexpr,
    FILTER: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_V: tl.constexpr,
):
    """One program takes every num_splits-th beam of a request and keeps its best, sorted."""
    request = tl.program_id(0).to(tl.int64)
    split = tl.program_id(1)
    num_splits = tl.num_programs(1)
    slot = tl.arange(0, BLOCK_K)
    top = tl.full([BLOCK_K], _NOTHING, tl.int64)
    is_bad = tl.full((), 0, tl.int32)
    words_ptr += request * num_words
    ranks_ptr += request * num_words
    for beam in range(split, tl.load(num_valid_ptr + request).to(tl.int32), num_splits):
        row = request * beam_width + beam
        beam_score = tl.load(scores_ptr + row)
        node = tl.load(nodes_ptr + row)
        begin = tl.load(child_begin_ptr + node)
        end = tl.load(child_begin_ptr + node + 1)
        row_ptr = logits_ptr + row * codebook_size
        if CHILDREN:
            log_sum = _log_sum_exp(row_ptr, tokens_ptr, begin, end, True, BLOCK_V)
        else:
            log_sum = _log_sum_exp(row_ptr, tokens_ptr, 0, codebook_size, False, BLOCK_V)
        is_bad |= ((log_sum != log_sum) | (log_sum == float("inf"))).to(tl.int32)
        worst = tl.max(tl.where(slot == width - 1, top, _NOTHING))
        # no child scores more than its beam
        if (worst == _NOTHING) | (beam_score >= _unpack_score(worst)):
            for first in range(begin, end, BLOCK_K):
                child = first + slot.to(tl.int64)
                mask = child < end
                code = tl.load(tokens_ptr + child, mask, other=0).to(tl.int64)
                x = tl.load(row_ptr + code, mask, other=float("-inf")).to(tl.float32)
                score = beam_score + (x - log_sum)
                mask &= score > float("-inf")
                if FILTER:
                    item = tl.load(item_begin_ptr + child, mask, other=0)
                    stop = tl.load(item_begin_ptr + child + 1, mask, other=0)
                    before = _rank(words_ptr, ranks_ptr, item, mask)
                    mask &= _rank(words_ptr, ranks_ptr, stop, mask) > before
                key = tl.where(mask, _pack(score, child), _NOTHING)
                worst = tl.max(tl.where(slot == width - 1, top, _NOTHING))
                if tl.max(key) > worst:
                    # of two sorted lists, one reversed, the larger of each pair are the best
                    top = tl.sort(tl.maximum(top, tl.sort(key)), descending=True)
    tl.store(top_keys_ptr + (request * num_splits + split) * BLOCK_K + slot, top)
    tl.store(is_bad_ptr + request * num_splits + split, is_bad)


@triton.jit
def _trie_topk_merge_kernel(
    top_keys_ptr,
    nodes_ptr,
    num_valid_ptr,
    child_begin_ptr,
    tokens_ptr,
    top_scores_ptr,
    top_parents_ptr,
    top_tokens_ptr,
    top_nodes_ptr,
    top_num_valid_ptr,
    beam_width,
    num_splits,
    width,
    BLOCK_K: tl.constexpr,
):
    """Merges the lists of a request's programs and writes what the keys stand for."""
    request = tl.program_id(0).to(tl.int64)
    slot = tl.arange(0, BLOCK_K)
    top_keys_ptr += request * num_splits * BLOCK_K
    top = tl.load(top_keys_ptr + slot)
    for split in range(1, num_splits):
        other = tl.load(top_keys_ptr + split * BLOCK_K + (BLOCK_K - 1 - slot))  # ascending
        top = tl.sort(tl.maximum(top, other), descending=True)
    is_beam = (top != _NOTHING) & (slot < width)
    child = tl.where(is_beam, 0xFFFFFFFF - (top & 0xFFFFFFFF), -1)
    parent = tl.full([BLOCK_K], -1, tl.int64)
    for beam in range(0, tl.load(num_valid_ptr + request).to(tl.int32)):
        node = tl.load(nodes_ptr + request * beam_width + beam)
        begin = tl.load(child_begin_ptr + node)
        end = tl.load(child_begin_ptr + node + 1)
        parent = tl.where((child >= begin) & (child < end), beam, parent)
    score = tl.where(is_beam, _unpack_score(top), float("-inf"))
    token = tl.load(tokens_ptr + child, is_beam, other=0).to(tl.int64)
    at = request * width + slot
    mask = slot < width
    tl.store(top_scores_ptr + at, score, mask)
    tl.store(top_parents_ptr + at, parent, mask)
    tl.store(top_tokens_ptr + at, tl.where(is_beam, token, -1), mask)
    tl.store(top_nodes_ptr + at, child, mask)
    tl.store(top_num_valid_ptr + request, tl.sum(is_beam.to(tl.int64)))


def _launch_config(width: int) -> dict[str, int]:
    """The list of the best has a power of two of slots, at least a warp's worth."""
    block = max(triton.next_power_of_2(width), 32)
    config = {"BLOCK_K": block, "num_warps": 4 if block > 64 else 1}
    if torch.version.hip is None:
        config["maxnreg"] = 255  # else ptxas spills a few bytes to fit one more block
    return config


def trie_topk(
    logits: Tensor,
    scores: Tensor,
    nodes: Tensor,
    num_valid: Tensor,
    level: Level,
    width: int,
    *,
    normalize: Literal["codebook", "children"] = "codebook",
    allowed: ItemFilter | None = None,
    backend: Backend = "auto",
) -> TopChildren:
    """Extends beams by one code and keeps the best `width` of each request.

    Args:
        logits: (batch, beam_width, codebook_size), float32, float16 or bfloat16.
        scores: (batch, beam_width) float32 log-probabilities.
        nodes: (batch, beam_width) int64 nodes of the beams' depth.
        num_valid: (batch,) int64; slots from num_valid on are not read.
        level: The trie's step from that depth to the next.
        width: How many to keep, at least 1; it may exceed beam_width and the codebook.
        normalize: "codebook": log-probabilities over the codebook. "children": over the children of
            the beam's node, filtered or not, so that a filter changes no score.
        allowed: Drops children with no allowed item below them; they take no beam's place.
        backend: "auto" runs the Triton kernels on CUDA tensors and `trie_topk_ref` elsewhere.

    Returns:
        The best children, best first; fewer than `width` where fewer are reachable. A code whose
        logit is -inf is never chosen.

    Raises:
        ValueError: A shape does not fit, or a valid beam's logits are NaN or +inf. On a GPU the
            latter is an assertion on the device.
    """
    batch, beam_width, codebook_size = logits.shape
    for name, x in (("scores", scores), ("nodes", nodes)):
        if x.shape != logits.shape[:2]:
            raise ValueError(f"{name} must be {tuple(logits.shape[:2])}, got {tuple(x.shape)}")
    if num_valid.shape != (batch,):
        raise ValueError(f"num_valid must be ({batch},), got {tuple(num_valid.shape)}")
    if width < 1:
        raise ValueError(f"width must be at least 1, got {width}")
    if normalize not in ("codebook", "children"):
        raise ValueError(f"normalize must be 'codebook' or 'children', got {normalize!r}")
    if len(level.tokens) >= _MAX_NODES:
        raise ValueError(f"a depth may have at most 2^32 - 1 nodes, got {len(level.tokens)}")
    if not use_triton(logits, backend):
        is_valid = torch.arange(beam_width, device=logits.device) < num_valid[:, None]
        _raise_if_bad(~(logits.amax(2) < float("inf")) & is_valid)
        return trie_topk_ref(
            logits, scores, nodes, num_valid, level, width, normalize=normalize, allowed=allowed
        )

    config = _launch_config(width)
    num_splits = max(min(beam_width, _NUM_PROGRAMS // max(batch, 1)), 1)
    keys = nodes.new_empty(batch, num_splits, config["BLOCK_K"])
    is_bad = nodes.new_zeros(batch, num_splits, dtype=torch.int32)
    parents, codes, children = nodes.new_empty(3, batch, width)
    top = scores.new_empty(batch, width)
    found = TopChildren(top, parents, codes, children, nodes.new_empty(batch))
    if batch == 0:
        return found
    nodes, num_valid = nodes.contiguous(), num_valid.contiguous()
    items = allowed or ItemFilter(nodes, nodes, nodes)  # not read without a filter
    _trie_topk_beams_kernel[(batch, num_splits)](
        logits.contiguous(),
        scores.contiguous(),
        nodes,
        num_valid,
        *level,
        *items,
        keys,
        is_bad,
        beam_width,
        codebook_size,
        items.words.shape[1],
        width,
        CHILDREN=normalize == "children",
        FILTER=allowed is not None,
        BLOCK_V=min(triton.next_power_of_2(codebook_size), 1024),
        **config,
    )
    _raise_if_bad(is_bad)
    _trie_topk_merge_kernel[(batch,)](
        keys, nodes, num_valid, *level, *found, beam_width, num_splits, width, **config
    )
    return found


def _raise_if_bad(is_bad: Tensor) -> None:
    """Raises on the logits of a valid beam that are no distribution; on a GPU without waiting."""
    if is_bad.is_cuda:
        torch._assert_async(~is_bad.any(), "trie_topk: logits of a valid beam are NaN or +inf")
    elif is_bad.any():
        request = int(is_bad.nonzero()[0, 0])
        raise ValueError(f"request {request}: the logits of a valid beam hold NaN or +inf")
