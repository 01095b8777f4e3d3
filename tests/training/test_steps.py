import itertools

import pytest

from store_engine.config import TrainConfig
from store_engine.training.steps import learning_rate


def test_learning_rate_warms_up_and_falls_to_its_minimum():
    train = TrainConfig(warmup=0.1, min_lr=0.05)
    rates = [learning_rate(train, 2.0, step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.2)
    assert rates[9] == rates[10] == max(rates) == 2.0
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))
    assert rates[-1] == pytest.approx(0.1, abs=0.01)


def test_wsd_stays_at_the_peak_and_falls_at_the_end():
    train = TrainConfig(schedule="wsd", warmup=0.1, decay=0.2, min_lr=0.05)
    rates = [learning_rate(train, 2.0, step, 100) for step in range(100)]
    assert rates[9:81] == [2.0] * 72
    steps = [a - b for a, b in itertools.pairwise(rates[80:])]
    assert steps == pytest.approx([2.0 * 0.95 / 20] * 19)
    assert rates[-1] == pytest.approx(0.1 + 2.0 * 0.95 / 20)
