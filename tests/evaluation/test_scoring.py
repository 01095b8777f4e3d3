import numpy as np
import pytest

from store_engine.data.split import Examples
from store_engine.evaluation.scoring import measure_scoring


class Oracle:
    """Knows that every target is item 3."""

    def probabilities(self, histories, candidates):
        assert len(histories) == len(candidates)
        return np.where(candidates == 3, 0.9, 0.1)


def test_an_oracle_scores_all_right():
    examples = Examples([np.zeros(1, np.int32)] * 20, np.full(20, 3, np.int32))
    found = measure_scoring(Oracle(), examples, num_items=10)
    assert found["auc"] == found["gauc"] == 1.0
    assert found["log_loss"] == pytest.approx(-np.log(0.9))
