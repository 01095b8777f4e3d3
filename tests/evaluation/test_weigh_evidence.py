"""A run's evidence: weighed on what training counts, then counted up to the test."""

import numpy as np
import pytest

from store_engine.collaborative.evidence import Evidence
from store_engine.collaborative.fit_evidence import updated
from store_engine.collaborative.item_space import Mix
from store_engine.config import EvidenceConfig
from store_engine.data.split import Examples, leave_one_out
from store_engine.data.synthetic import synthetic
from store_engine.evaluation import weigh_evidence as module
from store_engine.evaluation.weigh_evidence import weigh_evidence


def votes(data):
    indptr = np.array([0, len(data), len(data), len(data)])
    indices = np.arange(len(data), dtype=np.int32)
    floats = np.array(data, dtype=np.float32)
    return Evidence(indptr, indices, floats, 0.5, 2, {"graph": 1.0}, Mix("unit", 0.7))


@pytest.mark.parametrize("best", [0.125, 2.0**0.5, 8.0])
def test_the_scale_is_the_one_that_ranks_best(best, monkeypatch):
    """With a measure that is best at one scale, coarse or fine, that scale is found."""
    examples = Examples([np.zeros(1, np.int32)] * 4, np.arange(4, dtype=np.int32))
    monkeypatch.setattr(module, "rank_all", lambda engine, *_: engine)
    monkeypatch.setattr(
        module,
        "ranking_metrics",
        lambda scale, *_: {"ndcg@10": -abs(np.log2(scale) - np.log2(best))},
    )
    monkeypatch.setattr(module, "ItemEvidence", lambda evidence, scale: scale)
    assert weigh_evidence(lambda scale: scale, votes([1.0]), examples, 0) == best


def test_new_events_keep_weights_and_scale():
    catalog, histories = synthetic(60, 200, 6, 0)
    split = leave_one_out(histories)
    settings = EvidenceConfig(rank=8, neighbours=20)
    one = votes([1.0])
    got = updated(one, split.train, catalog, settings)
    scaled = updated(one.scaled(3.0), split.train, catalog, settings)
    np.testing.assert_allclose(scaled.data, 3 * got.data, rtol=1e-6)
    assert scaled.weights == got.weights == {"graph": 1.0}
    more = updated(one, split.before_test, catalog, settings)
    assert not np.array_equal(more.data, got.data)
