"""A run's evidence: weighed on what training counts, then counted up to the test."""

import numpy as np
import pytest

from store_engine.collaborative.evidence import Evidence, Mix
from store_engine.collaborative.fit_evidence import updated
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


@pytest.mark.parametrize(
    ("losses", "want"),
    [
        ({1.0: [0.0, 0.0]}, 1.0),  # all others lose much
        ({1.0: [0.0, 0.0], 2.0: [0.3, -0.2], 4.0: [0.3, 0.3]}, 2.0),  # .05 and an error of .18
        ({1.0: [0.0, 0.0], 4.0: [0.2, 0.1]}, 1.0),  # .15 and an error of .04
    ],
)
def test_of_the_scales_as_good_as_the_best_the_largest_is_taken(losses, want, monkeypatch):
    examples = Examples([np.zeros(1, np.int32)] * 2, np.arange(2, dtype=np.int32))
    monkeypatch.setattr(module, "rank_all", lambda scale, *_: scale)
    monkeypatch.setattr(
        module,
        "per_user_metrics",
        lambda scale, *_: {"ndcg@10": 0.5 - np.array(losses.get(scale, [0.4, 0.4]))},
    )
    monkeypatch.setattr(module, "ItemEvidence", lambda evidence, scale: scale)
    assert weigh_evidence(lambda scale: scale, votes([1.0]), examples, 0) == want


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
