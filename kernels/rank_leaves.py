"""From the leaves that a beam search found to items: the last step of a search on a device.

Leaves come best first; an item has its leaf's score, items that share a leaf follow in SID order.
An item is a place in that order, a leaf a range of places. The results lie in one block of memory,
so that one copy takes them to the host.

One program per request walks its leaves tile by tile. An item's rank is the number of those before
it that may be given, which is counted, so the leaves of a tile are written side by side, in as many
rounds as the largest of them has items: mostly one. No shape depends on values, nothing waits.
Ours; the filter is that of trie_select.py.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from store_engine.kernels._checks import INTEGERS, check_tensor
from store_engine.kernels._dispatch import Backend, use_triton
from store_engine.kernels.trie_select import Filter, check_filter
from store_engine.kernels.trie_topk import Beams


class RankedItems(NamedTuple):
    """The best items of each request, best first: parts of one (batch, 2 * size + 1) int32."""

    scores: Tensor  # (batch, size) float32; -inf for none
    places: Tensor  # (batch, size) int32; -1 for none
    is_bad: Tensor  # (batch,) int32: 1 where a beam's logits were NaN or +inf

    @classmethod
    def of(cls, memory: Tensor) -> "RankedItems":
        """Takes (batch, 2 * size + 1) int32 apart."""
        size = memory.shape[1] // 2
        scores = memory[:, :size].view(torch.float32)
        return cls(scores, memory[:, size : 2 * size], memory[:, -1])


def rank_leaves_ref(
    beams: Beams, leaf_begin: Tensor, size: int, largest: int, *, filter: Filter | None = None
) -> Tensor:
    """Defines the op, in plain PyTorch: no wait, static shapes. Same arguments as `rank_leaves`."""
    is_leaf, leaf = beams.nodes >= 0, beams.nodes.long().clamp(min=0)
    begin, end = leaf_begin[leaf].long(), leaf_begin[leaf + 1].long()
    num_alive = end - begin if filter is None else filter.num_alive(begin, end)
    num_alive = num_alive * is_leaf
    first = num_alive.cumsum(1) - num_alive  # rank of each leaf's first item
    scores = beams.scores.new_full((len(leaf), size + 1), -torch.inf)  # one more takes the others
    places = beams.nodes.new_full(scores.shape, -1, dtype=torch.int32)
    for place in (begin + i for i in range(largest)):
        is_item, rank = is_leaf & (place < end), first + place - begin
        if filter is not None:
            place = torch.where(is_item, place, begin)  # a set has no bits far behind its last item
            is_item = is_item & (filter.num_alive(place, place + 1) > 0)
            rank = first + filter.num_alive(begin, place)
        at = rank.masked_fill(~is_item, size).clamp(max=size)
        scores.scatter_(1, at, beams.scores)
        places.scatter_(1, at, place.int())
    parts = scores[:, :size].contiguous().view(torch.int32), places[:, :size]
    return torch.cat([*parts, beams.is_bad[:, None].int()], 1)


def rank_leaves(
    beams: Beams,
    leaf_begin: Tensor,
    size: int,
    largest: int,
    *,
    filter: Filter | None = None,
    backend: Backend = "auto",
) -> Tensor:
    """Finds the best items of each request.

    Args:
        beams: After the last level, best first; nodes int32 or int64, -1 for none, which come last.
            Of the others `scores` and `is_bad` play a part.
        leaf_begin: (num_leaves + 1,) int32 or int64: where each leaf's items begin.
        size: Items wanted, at least 1.
        largest: No leaf has more items, at least 1; the kernel does not need to be told.
        filter: What each request may be given, its `item_begin` is not read; None: everything.
        backend: See `_dispatch.choose_backend`.

    Returns:
        (batch, 2 * size + 1) int32: see `RankedItems.of`.

    Raises:
        ValueError: A shape, a number, a stride or a device does not fit.
        TypeError: A dtype does not fit.
    """
    if beams.nodes.ndim != 2 or leaf_begin.ndim != 1 or not len(leaf_begin):
        raise ValueError(
            "nodes must be (batch, width) and leaf_begin (num_leaves + 1,), got "
            f"{tuple(beams.nodes.shape)} and {tuple(leaf_begin.shape)}"
        )
    if size < 1 or largest < 1:
        raise ValueError(f"size and largest must be at least 1, got {size} and {largest}")
    (batch, width), device = beams.nodes.shape, beams.nodes.device
    check_tensor("nodes", beams.nodes, (batch, width), INTEGERS, device)
    check_tensor("scores", beams.scores, (batch, width), (torch.float32,), device)
    check_tensor("is_bad", beams.is_bad, (batch,), (torch.bool,), device)
    check_tensor("leaf_begin", leaf_begin, tuple(leaf_begin.shape), INTEGERS, device)
    if filter is not None:
        check_filter(filter, batch, len(filter.item_begin) - 1, device)
    if not use_triton(beams.scores, backend) or not beams.nodes.numel():
        return rank_leaves_ref(beams, leaf_begin, size, largest, filter=filter)
    from store_engine.kernels.triton.rank_leaves import launch_rank_leaves

    return launch_rank_leaves(beams, leaf_begin, size, filter)
