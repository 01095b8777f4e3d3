import numpy as np
import pytest
import torch

from store_engine.data.split import Examples
from store_engine.evaluation.scoring import measure_scoring, split_answers


def test_the_answers_rows_are_cut_off_and_nothing_else():
    table, body = torch.arange(12.0).view(6, 2), torch.ones(3)
    weights = {"code_embedding.weight": table, "code_head.weight": -table, "norm.weight": body}
    rest, answers = split_answers(weights)
    assert answers["code_head.weight"].tolist() == [[-8, -9], [-10, -11]]
    assert rest["code_embedding.weight"].tolist() == table[:4].tolist()
    assert rest["norm.weight"] is body


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
