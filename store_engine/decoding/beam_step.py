"""One level of trie-constrained beam search behind one function, whichever backend runs it.

Each beam is a node of the trie; its candidates are the node's children. A candidate's score is the
beam's score plus the log-probability of the child's code. The best `width` candidates of a request
are its new beams, in descending score; of equal scores the lower SID is first, so the result never
depends on the backend, the threads or the batch.

"cpp" is the C++ core's fused step. "torch" walks the same arrays with tensor operations and is its
equal on any device: all children of a request's beams laid out in one row, ascending, then top-k.
"triton" is the kernel of kernels/trie_topk.py, for a GPU.
"""

from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from store_engine import _C
from store_engine.catalog.batch_filter import BatchFilter
from store_engine.catalog.trie_arrays import TrieArrays, ragged_ranges
from store_engine.errors import InputError
from store_engine.inference.cache_attention import as_numpy
from store_engine.kernels._dispatch import use_triton
from store_engine.kernels.trie_topk import Level, trie_topk

Backend = Literal["auto", "cpp", "torch", "triton"]
Normalize = Literal["codebook", "children"]

# below this a second thread costs more than it saves
_LOGITS_PER_THREAD = 1 << 14


class Beams(NamedTuple):
    """The beams of a batch after one level. Slots from num_valid on: score -inf, the rest -1."""

    scores: Tensor  # (batch, width) float32 log-probabilities, descending
    parents: Tensor  # (batch, width) int64, which beam of the level before
    tokens: Tensor  # (batch, width) int64, the code appended
    nodes: Tensor  # (batch, width) int64, the trie node reached
    num_valid: Tensor  # (batch,) int64


def root_beams(batch: int, device: torch.device) -> Beams:
    """One beam per request, at the root, with log-probability 0."""
    zeros = torch.zeros(batch, 1, dtype=torch.int64, device=device)
    return Beams(zeros.float(), zeros, zeros, zeros, torch.ones_like(zeros[:, 0]))


def choose_backend(backend: Backend, device: torch.device) -> Backend:
    """Resolves "auto": the C++ core where the logits are in its reach, PyTorch elsewhere.

    Raises:
        ValueError: There is no such backend.
        InputError: "triton" is asked for where it cannot run.
    """
    if backend not in ("auto", "cpp", "torch", "triton"):
        raise ValueError(f"backend must be 'auto', 'cpp', 'torch' or 'triton', got {backend!r}")
    if backend == "triton":
        try:
            use_triton(torch.empty(0, device=device), backend)
        except RuntimeError as error:
            raise InputError(str(error)) from error
    if backend == "auto":
        return "cpp" if device.type == "cpu" else "torch"
    return backend


def beam_step(
    trie: TrieArrays,
    level: int,
    logits: Tensor,
    beams: Beams,
    width: int,
    *,
    normalize: Normalize = "codebook",
    backend: Backend = "auto",
    item_filter: BatchFilter | None = None,
) -> Beams:
    """Extends every beam by one code and keeps the best.

    Args:
        trie: The catalogue.
        level: Of the code to append, from 0.
        logits: (batch, beam_width, codebook_size) of that level, any float dtype.
        beams: The beams so far; `root_beams` at level 0.
        width: Beams to keep.
        normalize: "codebook": softmax over the level's codes, the model's likelihood. "children":
            over the codes that continue the beam's prefix.
        backend: "cpp", "torch", "triton", or "auto": cpp on the CPU, torch elsewhere.
        item_filter: Which items each request may be given: the result is that of a trie of these
            items alone, but for its node ids.

    Returns:
        The best beams of each request: `width` of them, or all there are. A code whose
        log-probability is -inf is no candidate.

    Raises:
        ValueError: A valid beam's logits are NaN or +inf, or the backend is unknown.
        InputError: "triton" is asked for where it cannot run.
    """
    backend = choose_backend(backend, logits.device)
    if backend == "torch":
        return _beam_step_torch(trie, level, logits.float(), beams, width, normalize, item_filter)
    if backend == "triton":
        return _beam_step_triton(trie, level, logits, beams, width, normalize, item_filter)
    arrays = _C.beam_step(
        trie.item_trie,
        level,
        _as_numpy(logits),
        beams.scores.cpu().numpy(),
        beams.nodes.cpu().numpy(),
        beams.num_valid.cpu().numpy(),
        width,
        item_filter=item_filter.core if item_filter else None,
        normalize=normalize,
        num_threads=max(1, min(torch.get_num_threads(), logits.numel() // _LOGITS_PER_THREAD)),
    )
    return Beams(*(torch.from_numpy(array).to(logits.device) for array in arrays))


def only_leaves(
    trie: TrieArrays,
    level: int,
    nodes: Tensor,
    *,
    backend: Backend,
    item_filter: BatchFilter | None = None,
) -> tuple[Tensor, Tensor]:
    """Finds the SID below each node where a request may be given only one: its codes are forced.

    Args:
        trie: The catalogue.
        level: Depth of the nodes, less than num_levels.
        nodes: (batch, width) int64; -1 stands for none.
        backend: As chosen for `beam_step`.
        item_filter: Which items each request may be given.

    Returns:
        leaves: (batch, width) int64, -1 where there are several or none.
        tokens: (batch, width) int64, the last code of each leaf's SID; -1 for none.
    """
    if backend != "cpp":
        return (item_filter or trie).only_leaves(level, nodes)
    leaves, tokens = _C.unique_leaves(
        trie.item_trie,
        level,
        nodes.cpu().numpy(),
        item_filter=item_filter.core if item_filter else None,
    )
    return torch.from_numpy(leaves).to(nodes.device), torch.from_numpy(tokens).to(nodes.device)


def _as_numpy(logits: Tensor) -> np.ndarray:
    """As the C++ core takes them, in bfloat16 or float32."""
    logits = logits.contiguous().cpu()
    return as_numpy(logits if logits.dtype == torch.bfloat16 else logits.float())


def _beam_step_torch(
    trie: TrieArrays,
    level: int,
    logits: Tensor,
    beams: Beams,
    width: int,
    normalize: Normalize,
    item_filter: BatchFilter | None,
) -> Beams:
    batch, beam_width, _ = logits.shape
    is_valid = torch.arange(beam_width, device=logits.device) < beams.num_valid[:, None]
    is_bad = ~(logits.amax(-1) < torch.inf)  # NaN is the maximum of what it stands in
    if bool((is_bad & is_valid).any()):
        raise ValueError(f"level {level}: logits NaN or +inf")

    # beams by node, so that each request's candidates lie in ascending order: ties take the first
    by_node = beams.nodes.masked_fill(~is_valid, trie.level_sizes[level]).argsort(dim=1)
    nodes = beams.nodes.gather(1, by_node).clamp(min=0)
    first = trie.child_begin[level][nodes]
    num_children = (trie.child_begin[level][nodes + 1] - first) * is_valid  # valid ones stand first

    # every candidate of the batch in one row: its child node, beam, code and score
    beam, child = ragged_ranges(first.flatten(), num_children.flatten())
    request = beam // beam_width
    if item_filter is not None:
        is_alive = item_filter.is_alive(level + 1, request, child)
        beam, child, request = beam[is_alive], child[is_alive], request[is_alive]
    parent = by_node.flatten()[beam]
    code = trie.token[level][child]
    chosen = logits[request, parent, code]
    if normalize == "codebook":
        log_sum = logits.logsumexp(-1)[request, parent]
    else:
        log_sum = segment_logsumexp(chosen, beam, batch * beam_width)[beam]
    log_sum = log_sum.masked_fill(log_sum == -torch.inf, torch.inf)  # all -inf: none is a candidate
    score = beams.scores[request, parent] + (chosen - log_sum)

    # one row per request, padded with -inf at the end
    num_candidates = torch.bincount(request, minlength=batch)
    begin = num_candidates.cumsum(0) - num_candidates
    table = score.new_full((batch, max(width, int(num_candidates.max()))), -torch.inf)
    table[request, torch.arange(len(score), device=score.device) - begin[request]] = score
    columns = top_columns(table, width)
    scores = table.gather(1, columns)
    is_beam = scores > -torch.inf  # -inf: padding, or a code that the model forbids
    kept = (begin[:, None] + columns).masked_fill(~is_beam, len(score))
    parents, tokens, nodes = (F.pad(x, (0, 1), value=-1)[kept] for x in (parent, code, child))
    return Beams(scores, parents, tokens, nodes, is_beam.sum(1))


def _beam_step_triton(
    trie: TrieArrays,
    level: int,
    logits: Tensor,
    beams: Beams,
    width: int,
    normalize: Normalize,
    item_filter: BatchFilter | None,
) -> Beams:
    if item_filter is not None and normalize == "children":
        logits = _without_dead_children(trie, level, logits, beams, item_filter)
    found = trie_topk(
        logits,
        beams.scores,
        beams.nodes,
        beams.num_valid,
        Level(trie.child_begin[level], trie.token[level]),
        width,
        normalize=normalize,
        allowed=item_filter.bitmask(level + 1) if item_filter else None,
        backend="triton",
    )
    return Beams(*found)


def _without_dead_children(
    trie: TrieArrays, level: int, logits: Tensor, beams: Beams, item_filter: BatchFilter
) -> Tensor:
    """Logits with -inf for what is not allowed: the kernel normalises over all children."""
    beam, child = trie.children(level, beams.nodes.flatten().clamp(min=0))
    request = beam // logits.shape[1]
    is_dead = ~item_filter.is_alive(level + 1, request, child)
    at = beam[is_dead] * logits.shape[2] + trie.token[level][child[is_dead]]
    return logits.flatten().index_fill(0, at, -torch.inf).view_as(logits)


def top_columns(table: Tensor, width: int) -> Tensor:
    """Columns of each row's `width` largest values, descending; of equal values the first.

    torch.topk promises no order among equals, so it only finds the threshold.
    """
    threshold = table.topk(width, dim=1).values[:, -1:]
    is_above, is_equal = table > threshold, table == threshold
    num_equal = width - is_above.sum(1, keepdim=True)
    is_top = is_above | (is_equal & (is_equal.cumsum(1) <= num_equal))
    columns = is_top.nonzero()[:, 1].view(len(table), width)
    order = table.gather(1, columns).argsort(dim=1, descending=True, stable=True)
    return columns.gather(1, order)


def segment_logsumexp(x: Tensor, segment: Tensor, num_segments: int) -> Tensor:
    """Log-sum-exp of the values of each segment, (num_segments,); -inf for an empty one."""
    top = x.new_full((num_segments,), -torch.inf).scatter_reduce(0, segment, x, "amax")
    shift = top.clamp(min=torch.finfo(x.dtype).min)  # -inf - -inf would be NaN
    total = torch.zeros_like(top).index_add(0, segment, (x - shift[segment]).exp())
    return total.log() + shift
