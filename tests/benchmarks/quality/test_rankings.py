import numpy as np
import pytest

from benchmarks.quality.rankings import rank, read_rankings, without_items
from store_engine.errors import InputError


@pytest.mark.parametrize("exclude", [True, False])
def test_rank_is_a_stable_sort_of_what_competes(exclude):
    scores = np.random.default_rng(0).permutation(50).reshape(5, 10).astype(np.float32)
    histories = [np.arange(user + 1, dtype=np.int32) for user in range(5)]
    got = rank(
        lambda some: scores[[len(h) - 1 for h in some]], histories, 8, exclude_history=exclude
    )
    for user, ranking in enumerate(got):
        order = [r for r in np.argsort(-scores[user]) if not exclude or r not in histories[user]]
        assert ranking.tolist() == (order + [-1] * 8)[:8]


@pytest.mark.parametrize(
    ("users", "rankings", "targets", "message"),
    [
        ([0, 0], [[1], [2]], [3, 3], "distinct"),
        ([0, 1], [[1], [2]], [3, 3], "targets are not those"),
        ([2], [[1]], [3], "below 2"),
        ([0], [[5]], [3], "below 5"),
        ([0], [[2, 2]], [3], "twice"),
    ],
)
def test_rankings_of_another_split_are_refused(split, tmp_path, users, rankings, targets, message):
    np.savez(tmp_path / "r.npz", users=users, rankings=rankings, targets=targets)
    with pytest.raises(InputError, match=message):
        read_rankings(tmp_path / "r.npz", split.test, 5)


def test_seen_items_leave_a_ranking():
    found = without_items(np.array([[3, 1, 2, -1]]), [np.array([1], np.int32)], 3)
    assert found.tolist() == [[3, 2, -1]]
