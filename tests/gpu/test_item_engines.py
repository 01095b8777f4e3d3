"""Engines of every form of items, with evidence, on a pretended device: results are the CPU's."""

import numpy as np
import pytest
from item_engines import (
    FANOUT,
    FORMS,
    NUM_FEATURES,
    NUM_ITEMS,
    ROWS,
    UPPER,
    ItemCase,
    new_items,
    random_votes,
)
from pretended_device import DEVICE, pretended_device

from store_engine.decoding.evidence import ItemEvidence

HISTORIES = [[3, 1, 4, 1, 5, 9], [2], [], [30, 31, 32]]
OPTIONS = [
    {},
    {"exact": True},
    {"exclude_history": True, "allow": "even"},
    {"evidence": False},
    {"evidence": False, "exact": True, "exclude": [[0], [], [59], [1, 2]]},
    {"evidence": False, "normalize": "children"},
]
BACKENDS = ["cpp", "torch"]
each_form = pytest.mark.parametrize("form", FORMS, ids=lambda form: "-".join(map(str, form)))
each_backend = pytest.mark.parametrize("backend", BACKENDS)


def make_engine(form, backend, device=None, **config):
    case = ItemCase(*form)
    if device is not None:
        device.put(case.model)
    config = {"beam_width": 20, "evidence": "auto"} | config
    engine = case.engine(backend, scorer=ItemEvidence(random_votes()), **config)
    engine.define("even", [f"item {row}" for row in range(0, NUM_ITEMS, 2)])
    return engine


def answers(engine, histories=HISTORIES, all_options=OPTIONS):
    return [engine.recommend_rows(histories, 8, **options) for options in all_options]


def assert_same(got, want):
    for (rows, scores), (want_rows, want_scores) in zip(got, want, strict=True):
        np.testing.assert_array_equal(rows, want_rows)
        np.testing.assert_allclose(scores, want_scores, atol=1e-4)


@each_backend
@each_form
def test_no_search_mixes_devices(form, backend, record_property):
    want = answers(make_engine(form, "cpp"))
    with pretended_device() as gpu:
        engine = make_engine(form, backend, gpu)
        assert engine.device == DEVICE
        got = answers(engine)
        record_property("device", gpu.report(f"{form}, {backend}"))
    assert_same(got, want)


@each_form
def test_explanations_and_scores_of_all_items(form):
    def ask(engine):
        return engine.explain(["item 3", "item 1"], "item 7"), engine.score_rows(HISTORIES)

    explained, scores = ask(make_engine(form, "cpp"))
    with pretended_device() as gpu:
        got_explained, got_scores = ask(make_engine(form, "torch", gpu))
    np.testing.assert_allclose(got_scores, scores, atol=1e-4)
    assert got_explained.score == pytest.approx(explained.score, abs=1e-4)
    gains = [reason.logprob_gain for reason in explained.history]
    assert [r.logprob_gain for r in got_explained.history] == pytest.approx(gains, abs=1e-4)


@each_backend
@pytest.mark.parametrize("form", ROWS, ids=lambda form: "-".join(map(str, form)))
def test_items_with_rows_come_and_go(form, backend):
    """The rows of new items are projected where the model is; the cache keeps old contexts."""

    def change(engine):
        before = answers(engine, all_options=[{}])
        taken = {tuple(sid) for sid in engine.sids.tolist()}
        every = np.ndindex(*UPPER, FANOUT)
        sids = np.array([sid for sid in every if sid not in taken][:2], dtype=np.int32)
        features = np.random.default_rng(0).normal(size=(2, NUM_FEATURES)).astype(np.float32)
        engine.add_items(new_items(2), sids, features)
        engine.remove_items(["item 3", "item 5"])
        return before + answers(engine, [*HISTORIES[:3], [60, 3, 61]], OPTIONS[:2])

    want = change(make_engine(form, "cpp"))
    with pretended_device() as gpu:
        got = change(make_engine(form, backend, gpu, prefix_cache_mib=8.0))
    assert_same(got, want)
