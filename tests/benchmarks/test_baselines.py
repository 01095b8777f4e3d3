import numpy as np
import pytest
import scipy.sparse as sp

from benchmarks.baselines import (
    measure_rankings,
    read_evidence,
    read_rankings,
    with_evidence,
    without_items,
)
from store_engine.data.histories import Histories
from store_engine.data.split import leave_one_out
from store_engine.errors import InputError


@pytest.fixture
def split():
    rows = np.array([0, 1, 2, 3, 4, 3, 2, 1], dtype=np.int32)
    return leave_one_out(Histories(("a", "b"), rows, np.array([0, 4, 8])))


def test_rankings_made_elsewhere_are_measured_under_both_rules(split, tmp_path):
    # user a has seen 0 1 2, the target is 3; user b is not ranked
    np.savez(tmp_path / "r.npz", users=[0], rankings=[[2, 4, 3, -1]], targets=[3])
    left_out, allowed = measure_rankings(split, 5, tmp_path / "r.npz")
    assert left_out["num_ranked"] == 1
    assert left_out["metrics"]["ndcg@10"] == pytest.approx(1 / np.log2(3))
    assert allowed["metrics"]["ndcg@10"] == pytest.approx(1 / np.log2(4))


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


def evidence_file(path, matrix, decay):
    csr = sp.csr_matrix(matrix.astype(np.float32))
    indptr = csr.indptr.astype(np.int64)
    decay = np.float32(decay)
    np.savez(path, indptr=indptr, indices=csr.indices, data=csr.data, decay=decay)


def test_evidence_is_the_weighted_sum_of_the_last_events_rows(tmp_path):
    matrix = np.random.default_rng(0).random((30, 30)).astype(np.float32)
    evidence_file(tmp_path / "e.npz", matrix, 0.5)
    histories = [np.array([3, 1, 3], np.int32), np.arange(25, dtype=np.int32)]
    got = read_evidence(tmp_path / "e.npz", 30)(histories)
    for scores, history in zip(got, histories, strict=True):
        votes = [0.5**age * matrix[row] for age, row in enumerate(history[::-1][:20])]
        np.testing.assert_allclose(scores, np.sum(votes, axis=0), rtol=1e-5)


def test_the_weight_of_the_evidence_is_the_best_on_validation(split, tmp_path):
    matrix = np.zeros((5, 5))
    matrix[1, 2] = matrix[3, 2] = 1.0  # what came next in the validation
    evidence_file(tmp_path / "e.npz", matrix, 0.7)
    evidence = read_evidence(tmp_path / "e.npz", 5)

    def score(histories):
        return np.tile(np.arange(5, 0, -1, dtype=np.float32), (len(histories), 1))

    summed, weight = with_evidence(score, evidence, split.valid)
    assert weight > 0
    assert (summed(split.valid.histories).argmax(1) == split.valid.targets).all()
