"""The last step of a search with evidence: two lists of items, ranked as one.

An item's score is its log-probability plus its evidence; of equals the lower place is first, that
is the lower SID, then row. The first list is what the beams found, the second what was named
besides: an item that is in both counts once. The results lie in one block of memory, so that one
copy takes them to the host. One program per request: a 64-bit key for each item, then an item's
rank is the number of larger keys. Nothing waits, no shape depends on values. Ours.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from store_engine.kernels._checks import check_tensor
from store_engine.kernels._dispatch import Backend, use_triton
from store_engine.kernels.trie_select import NOTHING, pack


class RankedCandidates(NamedTuple):
    """Items of each request, best first: parts of one (batch, 3 * n + 1) int32."""

    logprobs: Tensor  # (batch, n) float32; -inf for none
    evidence: Tensor  # (batch, n) float32; 0 for none
    places: Tensor  # (batch, n) int32; -1 for none
    is_bad: Tensor  # (batch,) int32: 1 where the search failed, or a log-probability is NaN

    @classmethod
    def of(cls, memory: Tensor) -> "RankedCandidates":
        """Takes (batch, 3 * n + 1) int32 apart."""
        n = memory.shape[1] // 3
        logprobs, evidence, places = memory[:, :-1].split(n, 1)
        return cls(
            logprobs.view(torch.float32), evidence.view(torch.float32), places, memory[:, -1]
        )


def rank_candidates_ref(
    logprobs: Tensor, evidence: Tensor, places: Tensor, was_bad: Tensor, num_found: int
) -> Tensor:
    """Defines the op, in plain PyTorch: no wait, static shapes. Same arguments."""
    is_one = (places >= 0) & (logprobs > -torch.inf)
    is_bad = was_bad | ((places >= 0) & logprobs.isnan()).any(1)
    found, named = places[:, :num_found], places[:, num_found:]
    is_repeat = ((named[:, :, None] == found[:, None]) & is_one[:, None, :num_found]).any(2)
    is_one = torch.cat([is_one[:, :num_found], is_one[:, num_found:] & ~is_repeat], 1)
    keys = pack(logprobs + evidence, places.long()).masked_fill(~is_one, NOTHING)
    order = keys.argsort(dim=1, descending=True)
    is_none = keys.gather(1, order) == NOTHING
    parts = (
        logprobs.gather(1, order).masked_fill(is_none, -torch.inf).view(torch.int32),
        evidence.gather(1, order).masked_fill(is_none, 0).view(torch.int32),
        places.gather(1, order).masked_fill(is_none, -1),
    )
    return torch.cat([*parts, is_bad[:, None].int()], 1)


def rank_candidates(
    logprobs: Tensor,
    evidence: Tensor,
    places: Tensor,
    was_bad: Tensor,
    num_found: int,
    *,
    backend: Backend = "auto",
) -> Tensor:
    """Ranks items.

    Args:
        logprobs: (batch, n) float32; -inf for an item that the model forbids.
        evidence: (batch, n) float32, finite.
        places: (batch, n) int32, of the items in SID order; -1 for none. Within each list distinct.
        was_bad: (batch,) bool.
        num_found: Columns of the first list; the others are the second.
        backend: See `_dispatch.choose_backend`.

    Returns:
        (batch, 3 * n + 1) int32: see `RankedCandidates.of`.

    Raises:
        ValueError: A shape, a number, a stride or a device does not fit.
        TypeError: A dtype does not fit.
    """
    if logprobs.ndim != 2 or not 0 <= num_found <= logprobs.shape[1]:
        raise ValueError(
            f"logprobs must be (batch, n) and num_found at most n, got {tuple(logprobs.shape)} and "
            f"{num_found}"
        )
    shape, device = logprobs.shape, logprobs.device
    check_tensor("logprobs", logprobs, shape, (torch.float32,), device)
    check_tensor("evidence", evidence, shape, (torch.float32,), device)
    check_tensor("places", places, shape, (torch.int32,), device)
    check_tensor("was_bad", was_bad, shape[:1], (torch.bool,), device)
    if not use_triton(logprobs, backend) or not logprobs.numel():
        return rank_candidates_ref(logprobs, evidence, places, was_bad, num_found)
    from store_engine.kernels.triton.rank_candidates import launch_rank_candidates

    return launch_rank_candidates(logprobs, evidence, places, was_bad, num_found)
