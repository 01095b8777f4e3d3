"""The k-core: users and items with too few events go, until none is left to drop.

A number per user and item is all that is held; every round passes over the events once.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from store_engine.errors import InputError

_MAX_ROUNDS = 10_000

Pairs = Sequence[NDArray[np.int32]]  # users and items of some events


class Core(NamedTuple):
    """Who is left.

    Attributes:
        users: (num_users,) int32, events that are left of each user; 0 is a user who is dropped.
        items: (num_items,) int32, the same of each item.
        num_users_seen: Users with an event before anything was dropped.
        num_items_seen: Items of one.
        num_rounds: Passes, of which the last one found nothing to drop.
    """

    users: NDArray[np.int32]
    items: NDArray[np.int32]
    num_users_seen: int
    num_items_seen: int
    num_rounds: int


def k_core(
    events: Callable[[], Iterable[Pairs]], sizes: tuple[int, int], minimums: tuple[int, int]
) -> Core:
    """Finds the k-core.

    Args:
        events: Walks over all events, part by part; is called once a round.
        sizes: Number of users, and of items.
        minimums: Least events of a user, and of an item; 0 is as 1.

    Raises:
        InputError: It does not settle.
    """
    kept = [np.ones(size, dtype=np.bool_) for size in sizes]
    seen: list[int] = []
    for num_rounds in range(1, _MAX_ROUNDS + 1):
        counts = [np.zeros(size, dtype=np.int32) for size in sizes]
        for users, items in events():
            is_left = kept[0][users] & kept[1][items]
            for count, of_events in zip(counts, (users, items), strict=True):
                np.add.at(count, of_events[is_left], np.int32(1))
        seen = seen or [int(np.count_nonzero(count)) for count in counts]
        before, kept = (
            kept,
            [count >= max(minimum, 1) for count, minimum in zip(counts, minimums, strict=True)],
        )
        if all(map(np.array_equal, before, kept)):
            left = [count * is_kept for count, is_kept in zip(counts, kept, strict=True)]
            return Core(left[0], left[1], seen[0], seen[1], num_rounds)
    raise InputError(f"the k-core did not settle in {_MAX_ROUNDS:,} rounds")
