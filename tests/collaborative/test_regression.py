"""The regression against its formula, dense."""

import numpy as np
import pytest

from store_engine.collaborative import regression
from store_engine.collaborative.regression import next_item_regression
from store_engine.data.synthetic import synthetic


@pytest.mark.parametrize("steps", [7, 100_000], ids=["blocks", "one block"])
def test_against_the_formula(monkeypatch, steps):
    monkeypatch.setattr(regression, "_STEPS", steps)
    monkeypatch.setattr(regression, "_BLOCK", 17)
    _, events = synthetic(60, 80, 6, seed=0)
    pasts, nexts = [], []
    for user in range(events.num_users):
        history = events[user]
        for step in range(1, len(history)):
            past = np.zeros(60)
            for back, row in enumerate(history[:step][::-1][:20]):
                past[row] += 0.7**back
            pasts.append(past)
            nexts.append(np.eye(60)[history[step]])
    p, t = np.stack(pasts), np.stack(nexts)
    want = np.maximum(np.linalg.solve(p.T @ p + 20 * np.eye(60), p.T @ t), 0)
    np.fill_diagonal(want, 0)
    np.testing.assert_allclose(next_item_regression(events, 60, 60).toarray(), want, atol=1e-5)


@pytest.mark.parametrize("sequences", [[], [[1]], [[], [0]]], ids=str)
def test_without_steps(histories, sequences):
    assert next_item_regression(histories(*sequences), 3, 2).nnz == 0
