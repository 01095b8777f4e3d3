"""The best of given candidates: against a plain sort, ties and repeats included."""

import numpy as np
import pytest

from store_engine._C import best_of_sum

SIDS = np.random.default_rng(0).integers(0, 3, (20, 2)).astype(np.int32)  # many items share one


def plain_best(rows, logprobs, evidence, k):
    """One request, by the definition."""
    candidates = {}
    for row, logprob, votes in zip(rows.tolist(), logprobs, evidence, strict=True):
        if row >= 0 and logprob > -np.inf:
            candidates.setdefault(row, (logprob, votes))
    order = sorted(candidates, key=lambda r: (-sum(candidates[r]), *SIDS[r].tolist(), r))[:k]
    found = [(row, *candidates[row]) for row in order]
    return found + [(-1, -np.inf, 0.0)] * (k - len(found))


@pytest.mark.parametrize("k", [1, 5, 40])
@pytest.mark.parametrize("num_threads", [1, 3])
def test_equals_a_plain_sort(k, num_threads):
    rng = np.random.default_rng(k)
    rows = rng.integers(-1, 20, (50, 15))
    logprobs = rng.integers(-4, 0, rows.shape).astype(np.float32)
    logprobs[rng.random(rows.shape) < 0.1] = -np.inf
    evidence = rng.integers(0, 3, rows.shape).astype(np.float32)
    found = best_of_sum(rows, logprobs, evidence, SIDS, k, num_threads=num_threads)
    assert [part.dtype for part in found] == [np.int64, np.float32, np.float32]
    for request, got in enumerate(zip(*found, strict=True)):
        want = plain_best(rows[request], logprobs[request], evidence[request], k)
        assert list(zip(*got, strict=True)) == want


def test_nothing_to_choose_from():
    nothing = np.zeros((2, 0), dtype=np.float32)
    rows, logprobs, evidence = best_of_sum(nothing.astype(np.int64), nothing, nothing, SIDS, 2)
    assert rows.tolist() == [[-1, -1]] * 2
    assert (logprobs == -np.inf).all()
    assert not evidence.any()
    assert [len(x) for x in best_of_sum(*(x[:0] for x in (rows, logprobs, evidence)), SIDS, 2)] == [
        0,
        0,
        0,
    ]


def test_refuses():
    rows, zeros = np.zeros((1, 2), dtype=np.int64), np.zeros((1, 2), dtype=np.float32)
    with pytest.raises(ValueError, match=r"a row must be in \[-1, 19\], got 20"):
        best_of_sum(rows + 20, zeros, zeros, SIDS, 1)
    with pytest.raises(ValueError, match="request 0: a sum is NaN"):
        best_of_sum(rows, zeros * np.nan, zeros, SIDS, 1)
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        best_of_sum(rows, zeros, zeros, SIDS, 0)
    with pytest.raises(ValueError, match="evidence must have shape"):
        best_of_sum(rows, zeros, zeros[:, :1].copy(), SIDS, 1)
    with pytest.raises(ValueError, match="sids must be 2-D"):
        best_of_sum(rows, zeros, zeros, SIDS[:, 0].copy(), 1)
    with pytest.raises(ValueError, match="rows must be 2-D"):
        best_of_sum(rows[0], zeros, zeros, SIDS, 1)
