"""The item-item evidence of a run of ours, on top of another model's scores."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from benchmarks.quality.rankings import Score, validation_ndcg
from store_engine.data.split import Examples
from store_engine.files.npz import ArrayForm, read_npz

EVIDENCE = {
    "indptr": ArrayForm("i", 1),
    "indices": ArrayForm("i", 1),
    "data": ArrayForm("f", 1),
    "decay": ArrayForm("f", 0),
}
EVIDENCE_EVENTS = 20  # of a history that give evidence
WEIGHTS = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)  # of the evidence, tried


def read_evidence(path: Path, num_items: int) -> Score:
    """Reads an item-item matrix; the last events of a history give their rows, weighted by age.

    Raises:
        InputError: The file is missing, damaged or not of this form.
        ValueError: The matrix is not one of this catalogue.
    """
    got = read_npz(path, EVIDENCE, "an evidence file")
    shape = (num_items, num_items)
    matrix = sp.csr_matrix((got["data"], got["indices"], got["indptr"]), shape=shape)
    matrix.check_format(full_check=True)

    def score(histories: Sequence[NDArray[np.int32]]) -> NDArray[np.float32]:
        recent = [history[::-1][:EVIDENCE_EVENTS] for history in histories]
        weights = np.concatenate([got["decay"] ** np.arange(len(rows)) for rows in recent])
        ends = np.cumsum([0, *map(len, recent)])
        votes = sp.csr_matrix((weights, np.concatenate(recent), ends), (len(recent), num_items))
        scores: NDArray[np.float32] = (votes @ matrix).toarray().astype(np.float32)
        return scores

    return score


def with_evidence(score: Score, evidence: Score, valid: Examples) -> tuple[Score, float]:
    """Adds evidence to a score with the weight that is best on validation users."""
    best = max(
        WEIGHTS,
        key=lambda weight: validation_ndcg(add_evidence(score, evidence, weight), valid),
    )
    return add_evidence(score, evidence, best), best


def add_evidence(score: Score, evidence: Score, weight: float) -> Score:
    """Adds evidence to a score."""
    return lambda histories: score(histories) + np.float32(weight) * evidence(histories)
