"""One step of trie-constrained beam search: the best children of each request's beams.

    score = beam's score + logit of the child's code - log-sum-exp

over the whole codebook ("codebook") or over the beam's children that the request may still be given
("children"). Of equal scores the lower node id, that is the lower SID, is first. A candidate's
score and node id are packed into one 64-bit key that orders both, so a tile of children is merged
into a sorted list of the best by one elementwise maximum (of two sorted lists, one reversed) and
one sort; most tiles hold nothing better and are skipped, and so are beams whose score cannot rise
above the worst of the best (log p <= 0).

Two launches: the beams of a request are split among programs, whose lists are then merged.
Memory-bound, on the logits; no (batch, beam_width, children) tensor exists, no shape depends on the
data, and a new catalogue compiles nothing. Ours; the arrays are those of the C++ core.
"""

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from store_engine.kernels._dispatch import Backend, use_triton
from store_engine.kernels.bitmask import pack_bitmask
from store_engine.kernels.ragged import ragged_ranges, segment_logsumexp, top_columns

Normalize = Literal["codebook", "children"]

MAX_TRITON_WIDTH = 2048  # a longer sorted list takes Triton minutes to compile
_MAX_NODES = 1 << 32  # of one level: a node id has 32 bits of a key


class Beams(NamedTuple):
    """The beams of a batch after one level. Slots from num_valid on: score -inf, the rest -1."""

    scores: Tensor  # (batch, width) float32 log-probabilities, descending
    parents: Tensor  # (batch, width) int64, which beam of the level before
    tokens: Tensor  # (batch, width) int64, the code appended
    nodes: Tensor  # (batch, width) int64, the trie node reached
    num_valid: Tensor  # (batch,) int64
    is_bad: Tensor  # (batch,) bool: a valid beam's logits were NaN or +inf; no beam is left


def root_beams(batch: int, device: torch.device | str) -> Beams:
    """Makes one beam per request, at the root, with log-probability 0."""
    zeros = torch.zeros(batch, 1, dtype=torch.int64, device=device)
    first = zeros[:, 0]
    return Beams(zeros.float(), zeros, zeros, zeros, torch.ones_like(first), first.bool())


def valid_beams(logits: Tensor, beams: Beams) -> tuple[Tensor, Tensor]:
    """Says what of the beams may be gone on with, without a wait.

    Args:
        logits: (batch, beam_width, codebook_size).
        beams: As many.

    Returns:
        is_bad: (batch,) bool, the requests with a beam whose logits hold NaN or +inf.
        is_valid: (batch, beam_width) bool, the beams of the other requests.
    """
    is_valid = torch.arange(logits.shape[1], device=logits.device) < beams.num_valid[:, None]
    # NaN is the maximum of what it stands in
    is_bad = (~(logits.amax(2) < torch.inf) & is_valid).any(1)
    return is_bad, is_valid & ~is_bad[:, None]


class ItemBits(NamedTuple):
    """The form of an item filter that the kernel reads: one bit per item, in SID order.

    A child is alive for a request iff more allowed items stand before its end than before its
    beginning. `words` has at least one bit more than there are items, so that the end has a rank.
    """

    item_begin: Tensor  # (num_children + 1,) int64: where each child's items begin, in SID order
    words: Tensor  # (batch, num_words) int32: bit b of word w is item 32 w + b
    ranks: Tensor  # (batch, num_words) int32: allowed items before each word

    def is_alive(self, request: Tensor, child: Tensor) -> Tensor:
        """Says which children lead to an item that the request may be given.

        Args:
            request: int64 of any shape.
            child: int64, broadcast with `request`.

        Returns:
            bool of the common shape.
        """
        begin, end = self.item_begin[child], self.item_begin[child + 1]
        return self.rank(request, end) > self.rank(request, begin)

    def rank(self, request: Tensor, item: Tensor) -> Tensor:
        """Allowed items of a request before `item`."""
        bits = self.words[request, item >> 5].long() & ((1 << (item & 31)) - 1)
        return self.ranks[request, item >> 5] + _popcount(bits)


def pack_items(is_allowed: Tensor) -> Tensor:
    """Packs (num_rows, num_items) bool into the words of `ItemBits`."""
    return pack_bitmask(F.pad(is_allowed, (0, 32 - is_allowed.shape[1] % 32)))


def word_ranks(words: Tensor) -> Tensor:
    """Counts the bits before each word of a row: int32 (num_rows, num_words), as `words`."""
    counts = _popcount(words)
    return (counts.cumsum(1) - counts).int()


def _popcount(x: Tensor) -> Tensor:
    """The number of ones among the lower 32 bits, of the dtype of `x`, int32 or int64."""
    x = x - ((x >> 1) & 0x55555555)
    x = (x & 0x33333333) + ((x >> 2) & 0x33333333)
    x = (x + (x >> 4)) & 0x0F0F0F0F
    return ((x * 0x01010101) >> 24) & 0xFF


class Level(NamedTuple):
    """The trie's step from one level to the next, in CSR form, and what each request may take."""

    child_begin: Tensor  # (num_nodes + 1,) int64: where the children of each node begin
    tokens: Tensor  # (num_children,) integers: the code of each child, ascending under one parent
    allowed: ItemBits | None = None  # None: every child exists for every request


def trie_topk_ref(
    logits: Tensor, beams: Beams, level: Level, width: int, *, normalize: Normalize = "codebook"
) -> Beams:
    """Defines the op, in plain PyTorch. Same arguments as `trie_topk`."""
    batch, beam_width, _ = logits.shape
    logits = logits.float()
    is_bad, is_valid = valid_beams(logits, beams)

    # beams by node, so that each request's candidates lie in ascending order: ties take the first
    by_node = beams.nodes.masked_fill(~is_valid, len(level.child_begin)).argsort(dim=1)
    is_valid = is_valid.gather(1, by_node)
    nodes = beams.nodes.gather(1, by_node).masked_fill(~is_valid, 0)
    first = level.child_begin[nodes]
    num_children = (level.child_begin[nodes + 1] - first) * is_valid

    # every candidate of the batch in one row: its child node, beam, code and score
    beam, child = ragged_ranges(first.flatten(), num_children.flatten())
    request = beam // beam_width
    if level.allowed is not None:
        is_alive = level.allowed.is_alive(request, child)
        beam, child, request = beam[is_alive], child[is_alive], request[is_alive]
    parent = by_node.flatten()[beam]
    code = level.tokens[child].long()
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
    return Beams(scores, parents, tokens, nodes, is_beam.sum(1), beams.is_bad | is_bad)


def trie_topk(
    logits: Tensor,
    beams: Beams,
    level: Level,
    width: int,
    *,
    normalize: Normalize = "codebook",
    backend: Backend = "auto",
) -> Beams:
    """Extends beams by one code and keeps the best `width` of each request.

    Args:
        logits: (batch, beam_width, codebook_size), float32, float16 or bfloat16.
        beams: The beams so far; slots from num_valid on are not read.
        level: The trie's step from the beams' level to the next, on the device of the logits. A
            child that a request may not take does not exist for it and takes no beam's place.
        width: How many to keep, at least 1; it may exceed beam_width and the codebook. The Triton
            kernels take at most `MAX_TRITON_WIDTH`.
        normalize: "codebook": log-probabilities over the codebook. "children": over the children of
            the beam's node that the request may take.
        backend: See `_dispatch.choose_backend`; a wider list than the kernels take counts as a
            reason for "auto" to choose PyTorch.

    Returns:
        The best children, best first; fewer than `width` where fewer are reachable. A code whose
        logit is -inf is never chosen. A request with a valid beam whose logits hold NaN or +inf
        gets no beams and is flagged in `is_bad`, as it stays from then on; the others are not
        touched by it, and on a GPU the host does not wait.

    Raises:
        ValueError: A shape, a dtype, a stride or a device does not fit.
    """
    _check(logits, beams, level, width, normalize)
    is_triton = use_triton(logits, backend)
    if is_triton and width > MAX_TRITON_WIDTH:
        if backend == "triton":
            raise ValueError(f"backend='triton' keeps at most {MAX_TRITON_WIDTH}, got {width}")
        is_triton = False
    if len(logits) == 0:
        nothing = beams.nodes.new_empty(0, width)
        return beams._replace(
            scores=nothing.float(), parents=nothing, tokens=nothing, nodes=nothing
        )
    if not is_triton:
        return trie_topk_ref(logits, beams, level, width, normalize=normalize)
    from store_engine.kernels.triton.trie_topk import launch_trie_topk

    return launch_trie_topk(logits, beams, level, width, normalize)


def _check(logits: Tensor, beams: Beams, level: Level, width: int, normalize: str) -> None:
    """Refuses what the kernels would read wrongly; looks at no tensor's values."""
    batch = len(logits)
    shapes = {"scores": logits.shape[:2], "nodes": logits.shape[:2], "num_valid": (batch,)}
    dtypes = {"scores": torch.float32, "nodes": torch.int64, "num_valid": torch.int64}
    for name, shape in (shapes | {"is_bad": (batch,)}).items():
        got, dtype = getattr(beams, name), dtypes.get(name, torch.bool)
        if got.shape != shape:
            raise ValueError(f"{name} must be {tuple(shape)}, got {tuple(got.shape)}")
        if got.dtype != dtype:
            raise ValueError(f"{name} must be {dtype}, got {got.dtype}")
    if width < 1:
        raise ValueError(f"width must be at least 1, got {width}")
    if normalize not in ("codebook", "children"):
        raise ValueError(f"normalize must be 'codebook' or 'children', got {normalize!r}")
    if len(level.tokens) >= _MAX_NODES:
        raise ValueError(f"a level may have at most 2^32 - 1 nodes, got {len(level.tokens)}")
    arrays = {"child_begin": level.child_begin, "tokens": level.tokens}
    if level.allowed is not None:
        arrays |= level.allowed._asdict()
        _check_bits(level.allowed, batch, len(level.tokens))
    for name, array in arrays.items():
        if not array.is_contiguous():
            raise ValueError(f"{name} must be contiguous, got strides {array.stride()}")
        if array.device != logits.device:
            raise ValueError(f"{name} must be on {logits.device}, got {array.device}")


def _check_bits(bits: ItemBits, batch: int, num_children: int) -> None:
    if bits.item_begin.shape != (num_children + 1,):
        raise ValueError(
            f"item_begin must be ({num_children + 1},), got {tuple(bits.item_begin.shape)}"
        )
    if bits.words.ndim != 2 or len(bits.words) != batch or bits.ranks.shape != bits.words.shape:
        raise ValueError(
            f"words and ranks must be ({batch}, num_words), "
            f"got {tuple(bits.words.shape)} and {tuple(bits.ranks.shape)}"
        )
    for name in ("words", "ranks"):
        dtype = getattr(bits, name).dtype
        if dtype != torch.int32:
            raise ValueError(f"{name} must be int32, got {dtype}")
