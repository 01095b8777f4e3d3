import dataclasses

import numpy as np
import pytest
from item_engines import random_experts

from benchmarks.quality.evidence import like, weighed_for, with_evidence
from store_engine.collaborative.evidence import Evidence, Mix
from store_engine.collaborative.experts import Expert

NUM_ITEMS = 5


def evidence(*experts):
    """Every item votes for all."""
    indptr = np.arange(NUM_ITEMS + 1) * NUM_ITEMS
    indices = np.tile(np.arange(NUM_ITEMS, dtype=np.int32), NUM_ITEMS)
    data = np.ones(len(indices), dtype=np.float32)
    return Evidence(
        indptr, indices, data, 0.7, 20, {"a": 1.0}, Mix("unit", 0), experts=tuple(experts)
    )


def flat(histories):
    return np.tile(np.arange(NUM_ITEMS, 0, -1, dtype=np.float32), (len(histories), 1))


def test_experts_are_added_to_the_score_of_every_item():
    experts = random_experts(NUM_ITEMS**2)
    histories = [np.array([3, 1, 3], np.int32), np.arange(5, dtype=np.int32)]
    got = with_evidence(flat, evidence(*experts))(histories)
    for scores, history in zip(got, histories, strict=True):
        want = np.arange(NUM_ITEMS, 0, -1.0)
        for one in experts:
            votes = one.data.reshape(NUM_ITEMS, NUM_ITEMS).astype(np.float64)
            own = sum(one.decay**age * votes[row] for age, row in enumerate(history[::-1]))
            want += one.weight * np.log1p(own / one.unit)
        assert scores == pytest.approx(want, rel=1e-5)


def test_they_are_weighed_for_the_model_and_go_with_later_counts(split):
    data = np.zeros((NUM_ITEMS, NUM_ITEMS), dtype=np.float16)
    data[1, 2] = data[3, 2] = 4  # what came next in the validation
    useful = Expert("useful", 0.0, 1.0, 0.5, data.ravel())
    useless = dataclasses.replace(useful, name="useless", data=np.zeros_like(useful.data))
    many = dataclasses.replace(
        split.valid, histories=split.valid.histories * 20, targets=np.tile(split.valid.targets, 20)
    )
    weighed = weighed_for(flat, evidence(useless, useful), many)
    assert [expert.name for expert in weighed.experts] == ["useful"]
    later = dataclasses.replace(useful, data=np.float16(2) * useful.data)
    both = like(evidence(later, useless), weighed)
    assert both.experts[0].weight == weighed.experts[0].weight
    assert (both.experts[0].data == later.data).all()
    summed = with_evidence(flat, weighed)
    assert (summed(split.valid.histories).argmax(1) == split.valid.targets).all()
