"""NDCG@10 of scores on validation users: what every choice of this package is made by."""

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from store_engine.data.split import Examples

_MAX_USERS = 10_000
_BLOCK_SCORES = 1 << 19  # scores that are dense at once: what caches hold
_K = 10


def sample(examples: Examples, num_items: int, seed: int) -> Examples:
    """Draws at most 10,000 users whose histories are not empty, fewer of very large catalogues."""
    users = np.array([u for u, history in enumerate(examples.histories) if len(history)], dtype=int)
    most = min(_MAX_USERS, max(500, 2_000_000_000 // num_items))
    if len(users) > most:
        users = np.sort(np.random.default_rng(seed).choice(users, most, replace=False))
    return Examples([examples.histories[user] for user in users], examples.targets[users])


def user_blocks(num_users: int, num_items: int) -> Iterator[slice]:
    """Slices of users whose dense scores fit the memory meant for them."""
    size = max(1, _BLOCK_SCORES // num_items)
    return (slice(begin, begin + size) for begin in range(0, num_users, size))


def ndcg(num_better: NDArray[np.floating], is_hit: NDArray[np.bool_]) -> float:
    """Computes NDCG@10 from the number of items before each target.

    Args:
        num_better: (num_users,) items that score higher; half of those that score the same.
        is_hit: (num_users,) false where the target is not ranked at all.
    """
    gains = np.where(is_hit & (num_better < _K), 1 / np.log2(num_better + 2), 0)
    return float(gains.mean()) if len(gains) else 0.0


def dense_ndcg(
    score: Callable[[slice], NDArray[np.float32]],
    examples: Examples,
    num_items: int,
    *,
    exclude_history: bool,
) -> float:
    """Computes NDCG@10 of scores of all items.

    Args:
        score: Gives the scores of a slice of users, (num_users, num_items).
        examples: The users.
        num_items: Size of the catalogue.
        exclude_history: Leave out what the user has seen.
    """
    better, hits = [np.empty(0)], [np.empty(0, dtype=bool)]
    for users in user_blocks(len(examples.targets), num_items):
        scores, targets = score(users), examples.targets[users]
        own = scores[np.arange(len(targets)), targets].copy()
        if exclude_history:
            for row, history in zip(scores, examples.histories[users], strict=True):
                row[history] = -np.inf
        hits.append(scores[np.arange(len(targets)), targets] > -np.inf)
        num_equal = (scores == own[:, None]).sum(1) - 1
        better.append((scores > own[:, None]).sum(1) + num_equal / 2)
    return ndcg(np.concatenate(better), np.concatenate(hits))
