"""One step of trie-constrained beam search, with static shapes and for any width: for CUDA graphs.

The op of trie_topk.py, and its results. Two launches: one program per beam writes a 64-bit key
(score, then lower node id) for each of its children; one per request finds the width-th largest key
by radix, 11 bits at a time, and writes what is not below it. A key's place in the order is the
number of larger ones, its beam the number of beams that begin before it: counted, not sorted, so
neither kernel is compiled for a width. Nothing waits for the device, no shape depends on values.

Filters are resident: sets of items as bits, and the few items that one request excludes besides.
A child is alive iff below it stand more items of the request's set than excluded ones.

Memory-bound, on the logits and the keys. The first digit's histogram is made with the others, of
keys that are read anyway: atomics of the first launch would meet in the few bins of like scores,
and need zeros. Ours; the arrays are those of the C++ core.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from store_engine.kernels._checks import FLOATS, INTEGERS, check_tensor
from store_engine.kernels._dispatch import Backend, use_triton
from store_engine.kernels.trie_topk import Beams, ItemBits, Level, Normalize, valid_beams

NOTHING = -(1 << 63)  # key below every candidate's
_CODES = (torch.uint8, torch.uint16, torch.int16, *INTEGERS)


class Filter(NamedTuple):
    """What each request of a batch may be given; places are positions in SID order.

    A place that is excluded must be of the request's set, or it would be subtracted from items that
    are allowed.
    """

    words: Tensor  # (num_sets, num_words) int32: bit b of word w is place 32 w + b
    ranks: Tensor  # (num_sets, num_words) int32: places of the set before each word
    set_index: Tensor  # (batch,) int32, the set of each request; -1: every item
    excluded: Tensor  # (batch, num_excluded) int32 ascending, distinct, padded with num_items
    item_begin: Tensor  # (num_children + 1,) int32: where each child's items begin

    def is_alive(self, child: Tensor) -> Tensor:
        """Says which children, (batch, beam_width, n) int64, lead to an item that may be given."""
        shape, child = child.shape, child.flatten(1)
        return (self.num_alive(self.item_begin[child], self.item_begin[child + 1]) > 0).view(shape)

    def num_alive(self, begin: Tensor, end: Tensor) -> Tensor:
        """Counts the places from begin to end that may be given; (batch, n) integers all."""
        num_allowed = end - begin
        if len(self.words):
            request_set = self.set_index[:, None].long()
            bits = ItemBits(self.item_begin, self.words, self.ranks)
            known = request_set.clamp(min=0)
            in_set = bits.rank(known, end) - bits.rank(known, begin)
            num_allowed = torch.where(request_set < 0, num_allowed, in_set)
        before_begin, before_end = (torch.searchsorted(self.excluded, x) for x in (begin, end))
        return num_allowed - (before_end - before_begin)


class Backpointers(NamedTuple):
    """Where a search writes down which beam each one comes from, in slots of its own."""

    slots: Tensor  # (batch, num_slots) int32, written in place: the slot of a beam's parent
    begin: int  # slot of the first beam that is found; `width` are written, -1 for none
    parent_begin: int  # slot of the first of the beams that are extended


def trie_select_ref(
    logits: Tensor,
    beams: Beams,
    level: Level,
    width: int,
    *,
    normalize: Normalize = "codebook",
    filter: Filter | None = None,
    back: Backpointers | None = None,
) -> Beams:
    """Defines the op, in plain PyTorch: no wait, static shapes. Same arguments as `trie_select`."""
    codebook_size, logits = logits.shape[2], logits.float()
    is_bad, is_valid = valid_beams(logits, beams)

    # as many places for children as there are codes
    node = beams.nodes.long().masked_fill(~is_valid, 0)
    begin, end = level.child_begin[node].long(), level.child_begin[node + 1].long()
    child = begin[:, :, None] + torch.arange(codebook_size, device=logits.device)
    is_child = (child < end[:, :, None]) & is_valid[:, :, None]
    child = child.masked_fill(~is_child, 0)
    if filter is not None:
        is_child = is_child & filter.is_alive(child)

    chosen = logits.gather(2, level.tokens[child].long())
    rivals = logits if normalize == "codebook" else chosen.masked_fill(~is_child, -torch.inf)
    log_sum = rivals.logsumexp(2, keepdim=True)
    log_sum = log_sum.masked_fill(log_sum == -torch.inf, torch.inf)  # all -inf: none is a candidate
    score = beams.scores[:, :, None] + (chosen - log_sum)

    is_child = is_child & (score > -torch.inf)  # -inf: a code that the model forbids
    keys = pack(score, child).masked_fill(~is_child, NOTHING).flatten(1)
    keys = F.pad(keys, (0, max(width - keys.shape[1], 0)), value=NOTHING)
    top, at = keys.topk(width, dim=1)
    is_beam = top != NOTHING
    nodes = 0xFFFFFFFF - (top & 0xFFFFFFFF)
    tokens = level.tokens[nodes.masked_fill(~is_beam, 0)].long()
    found = (at // codebook_size, tokens, nodes)
    parents, tokens, nodes = (x.masked_fill(~is_beam, -1).to(beams.nodes.dtype) for x in found)
    if back is not None:
        slots = (parents + back.parent_begin).masked_fill(~is_beam, -1)
        back.slots[:, back.begin : back.begin + width].copy_(slots)
    scores = _unpack_score(top).masked_fill(~is_beam, -torch.inf)
    num_valid = is_beam.sum(1).to(beams.nodes.dtype)
    return Beams(scores, parents, tokens, nodes, num_valid, beams.is_bad | is_bad)


def pack(score: Tensor, child: Tensor) -> Tensor:
    """A key that orders by score, then by lower node id."""
    bits = score.view(torch.int32)
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)  # the order of floats as integers
    return (ordered.long() << 32) | (0xFFFFFFFF - child)


def _unpack_score(key: Tensor) -> Tensor:
    ordered = (key >> 32).int()
    return (ordered ^ ((ordered >> 31) & 0x7FFFFFFF)).view(torch.float32)


def trie_select(
    logits: Tensor,
    beams: Beams,
    level: Level,
    width: int,
    *,
    normalize: Normalize = "codebook",
    filter: Filter | None = None,
    back: Backpointers | None = None,
    backend: Backend = "auto",
) -> Beams:
    """Extends beams by one code and keeps the best `width` of each request.

    Args:
        logits: (batch, beam_width, codebook_size), float32, float16 or bfloat16; each row is
            contiguous, rows may be shared (`expand`) or stand among others.
        beams: The beams so far, integers all int32 or all int64; slots from num_valid on are not
            read. `parents` and `tokens` play no part.
        level: The trie's step from the beams' level to the next, its `allowed` None: child_begin
            int32 or int64, tokens of any integer dtype, fewer than 2^31.
        width: How many to keep, at least 1; it may exceed beam_width and the codebook.
        normalize: "codebook": log-probabilities over the codebook. "children": over the children of
            the beam's node that the request may take.
        filter: What each request may be given; None: everything.
        back: Where backpointers are written; None: nowhere.
        backend: See `_dispatch.choose_backend`.

    Returns:
        As `trie_topk`, with the integer dtype of `beams`: the best children, best first, of equal
        scores the lower node id; fewer than `width` where fewer are reachable.

    Raises:
        ValueError: A shape, an option, a stride or a device does not fit.
        TypeError: A dtype does not fit.
    """
    _check(logits, beams, level, width, normalize)
    if filter is not None:
        check_filter(filter, len(logits), len(level.tokens), logits.device)
    if back is not None:
        shape = len(logits), max(back.slots.shape[-1], back.begin + width)
        check_tensor("backpointers", back.slots, shape, (torch.int32,), logits.device)
    if not len(logits):
        nothing = beams.nodes.new_empty(0, width)
        scores = beams.scores.new_empty(0, width)
        return beams._replace(scores=scores, parents=nothing, tokens=nothing, nodes=nothing)
    if not use_triton(logits, backend):
        return trie_select_ref(
            logits, beams, level, width, normalize=normalize, filter=filter, back=back
        )
    from store_engine.kernels.triton.trie_select import launch_trie_select

    return launch_trie_select(logits, beams, level, width, normalize, filter, back)


def _check(logits: Tensor, beams: Beams, level: Level, width: int, normalize: str) -> None:
    """Raises what `trie_select` promises of all but the filter."""
    if logits.ndim != 3 or 0 in logits.shape[1:]:
        raise ValueError(
            f"logits must be (batch, beam_width, codebook_size), got {tuple(logits.shape)}"
        )
    if logits.shape[1:].numel() >= 1 << 31:
        raise ValueError(f"a request may have at most 2^31 - 1 logits, got {tuple(logits.shape)}")
    if width < 1:
        raise ValueError(f"width must be at least 1, got {width}")
    if normalize not in ("codebook", "children"):
        raise ValueError(f"normalize must be 'codebook' or 'children', got {normalize!r}")
    if level.allowed is not None:
        raise ValueError("the level's `allowed` must be None: give a filter")
    if not 0 < len(level.tokens) < 1 << 31:
        raise ValueError(f"a level may have 1 to 2^31 - 1 children, got {len(level.tokens)}")
    batch, device = len(logits), logits.device
    check_tensor("logits", logits, logits.shape, FLOATS, device, is_contiguous=False)
    if logits.stride(2) != 1:
        raise ValueError(f"each row of logits must be contiguous, got strides {logits.stride()}")
    check_tensor("scores", beams.scores, logits.shape[:2], (torch.float32,), device)
    check_tensor("nodes", beams.nodes, logits.shape[:2], INTEGERS, device)
    check_tensor("num_valid", beams.num_valid, (batch,), (beams.nodes.dtype,), device)
    check_tensor("is_bad", beams.is_bad, (batch,), (torch.bool,), device)
    check_tensor("child_begin", level.child_begin, (len(level.child_begin),), INTEGERS, device)
    check_tensor("tokens", level.tokens, (len(level.tokens),), _CODES, device)


def check_filter(filter: Filter, batch: int, num_children: int, device: torch.device) -> None:
    """Raises what an op promises of the filter of a batch, for ranges of so many children."""
    if filter.words.ndim != 2 or filter.excluded.ndim != 2:
        raise ValueError(
            "words must be (num_sets, num_words) and excluded (batch, num_excluded), "
            f"got {tuple(filter.words.shape)} and {tuple(filter.excluded.shape)}"
        )
    shapes = {
        "words": filter.words.shape,
        "ranks": filter.words.shape,
        "set_index": (batch,),
        "excluded": (batch, filter.excluded.shape[1]),
        "item_begin": (num_children + 1,),
    }
    for name, shape in shapes.items():
        check_tensor(name, getattr(filter, name), tuple(shape), (torch.int32,), device)
