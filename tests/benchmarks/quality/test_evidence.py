import numpy as np
import scipy.sparse as sp

from benchmarks.quality.evidence import read_evidence, with_evidence


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
