"""What training says at its end; test_resume.py trains."""

from types import SimpleNamespace

import pytest

from store_engine.config import TrainConfig
from store_engine.training.distributed.progress import Best, TrainProgress
from store_engine.training.log import last_rise
from store_engine.training.loop import _in_words

STAGE = SimpleNamespace(name="recommender", num_steps=3)


@pytest.mark.parametrize(
    ("values", "calls_for_more"),
    [([0.1, 0.2, 0.3], True), ([0.1, 0.3, 0.301], False), ([0.1, 0.3, 0.2], False), ([0.3], False)],
    ids=["rising", "levelled off", "fell", "measured once"],
)
def test_more_epochs_are_called_for_where_validation_still_rose(values, calls_for_more):
    best = Best(1 + values.index(max(values)), max(values), num_worse=0)
    progress = TrainProgress("recommender", 3, num_ranks=1, zero_stage=0, best=best)
    words = _in_words(progress, STAGE, TrainConfig(keep="best", eval_every=1), last_rise(values))
    assert f"was best after step {best.step} ({best.score:.4f})" in words
    assert ("more recommender.epochs may be better" in words) == calls_for_more
    assert words.endswith("; the best weights are kept")
