"""A run's evidence: weighed on what training counts, then counted up to the test."""

import dataclasses

import numpy as np
import pytest
from item_engines import NUM_ITEMS, ItemCase

from store_engine.collaborative.evidence import Evidence, Mix
from store_engine.collaborative.experts import Expert
from store_engine.collaborative.fit_evidence import updated
from store_engine.config import EvidenceConfig
from store_engine.data.split import Examples, leave_one_out
from store_engine.data.synthetic import synthetic
from store_engine.evaluation.evaluate_run import rank_all
from store_engine.evaluation.metrics import ranking_metrics
from store_engine.evaluation.weigh_evidence import weigh_evidence

SETTINGS = EvidenceConfig(rank=8, neighbours=20)


def votes(*experts):
    """Every item votes for all others alike; what its experts say is up to them."""
    indptr = np.arange(NUM_ITEMS + 1) * (NUM_ITEMS - 1)
    indices = np.concatenate([np.setdiff1d(np.arange(NUM_ITEMS), [i]) for i in range(NUM_ITEMS)])
    data = np.ones(len(indices), dtype=np.float32)
    evidence = Evidence(indptr, indices.astype(np.int32), data, 0.5, 2, {"a": 1.0}, Mix("unit", 0))
    return dataclasses.replace(evidence, experts=experts)


def next_one(share, name, seed=0):
    """An expert that votes for the item after the event, where it knows it: of some items."""
    draw = np.random.default_rng(seed)
    dense = draw.random((NUM_ITEMS, NUM_ITEMS)) * 0.2
    known = np.flatnonzero(draw.random(NUM_ITEMS) < share)
    dense[known, (known + 1) % NUM_ITEMS] = 3
    others = ~np.eye(NUM_ITEMS, dtype=bool)
    return Expert(name, 0.0, 1.0, 0.5, dense[others].astype(np.float16))


def walks(num_users=400, seed=0):
    """Three items, each the one after the last; then the next."""
    begins = np.random.default_rng(seed).integers(0, NUM_ITEMS, num_users)
    histories = [((begin + np.arange(3)) % NUM_ITEMS).astype(np.int32) for begin in begins]
    return Examples(histories, ((begins + 3) % NUM_ITEMS).astype(np.int32))


def make_engine(scorer):
    case = ItemCase("item", "items", "heads", False)
    return case.engine(scorer=scorer, evidence="auto", exclude_history=True)


def ndcg(evidence, examples):
    from store_engine.decoding.evidence import ItemEvidence

    rankings = rank_all(make_engine(ItemEvidence(evidence)), examples, 10)
    return ranking_metrics(rankings, examples.targets, (10,))["ndcg@10"]


def test_weighs_what_says_the_next_item_and_leaves_out_what_does_not():
    evidence, experts = votes(), (next_one(0.7, "useful"), next_one(0.0, "noise", 1))
    found = weigh_evidence(make_engine, evidence, experts, walks(), 0)
    assert [expert.name for expert in found.experts] == ["useful"]
    assert found.experts[0].weight > 1
    assert found.experts[0].data is experts[0].data
    assert (found.data == evidence.data).all()
    test = walks(seed=1)
    assert ndcg(found, test) > 2 * ndcg(evidence, test)


def test_without_validation_users_the_sum_counts():
    nobody = Examples([], np.zeros(0, dtype=np.int32))
    found = weigh_evidence(make_engine, votes(), [next_one(0.7, "useful")], nobody, 0)
    assert found.experts == ()


@pytest.mark.parametrize("of_them", [["graph"], ["text", "transitions"], []], ids=str)
def test_new_events_keep_all_numbers(of_them):
    catalog, histories = synthetic(60, 200, 6, 0)
    split = leave_one_out(histories)
    data = np.zeros(60 * 59, np.float16)
    experts = [Expert(name, -1.5, 0.3, 0.7, data) for name in of_them]
    one = votes(*experts)
    one = dataclasses.replace(one, weights={"graph": 1.0})
    got = updated(one, split.train, catalog, SETTINGS)
    scaled = updated(one.scaled(3.0), split.train, catalog, SETTINGS)
    np.testing.assert_allclose(scaled.data, 3 * got.data, rtol=1e-6)
    assert scaled.weights == got.weights == {"graph": 1.0}
    more = updated(one, split.before_test, catalog, SETTINGS)
    assert not np.array_equal(more.data, got.data)
    for expert, name in zip(more.experts, of_them, strict=True):
        numbers = expert.name, expert.weight, expert.unit, expert.decay
        assert numbers == (name, -1.5, 0.3, 0.7) and expert.data.any()
