"""Evidence in the search by graphs: the answers of the C++ core, ties included, within a budget."""

from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from item_engines import FORMS, NUM_ITEMS, ItemCase, item_sids, new_items, random_experts
from pretended_device import pretended_device

from store_engine.collaborative.evidence import NewItemVotes
from store_engine.decoding.backends import NonFiniteLogitsError
from store_engine.decoding.evidence import ItemEvidence

HISTORIES = [[3, 1, 4, 1, 5, 9], [2], [], [7, 1, 8, 2, 8, 1, 8], [11, 59]]
PLAIN = ("item", "items", "heads", False)  # what configs/presets/ours.toml trains
OPTIONS = [{}, {"exclude_history": True}, {"allow": "even", "exclude": [[2]] * 5}]


def random_votes(seed=0, density=0.2, window=4, has_experts=False):
    """Whole numbers and a decay of a half: equals are many."""
    rng = np.random.default_rng(seed)
    matrix = sp.random_array((NUM_ITEMS, NUM_ITEMS), density=density, rng=rng, format="csr")
    matrix.sort_indices()
    data = rng.integers(1, 4, matrix.nnz).astype(np.float32)
    indptr, indices = matrix.indptr.astype(np.int64), matrix.indices.astype(np.int32)
    experts = random_experts(len(data), seed) if has_experts else ()
    return SimpleNamespace(
        indptr=indptr, indices=indices, data=data, decay=0.5, window=window, experts=experts
    )


def engine_of(form, device=None, votes=None, model=None, **config):
    case = ItemCase(*form)
    if model is not None:
        model(case.model)
    if device is not None:
        device.put(case.model)
    config = {"evidence": "auto", "beam_width": 9} | config
    engine = case.engine(scorer=ItemEvidence(votes or random_votes()), **config)
    engine.define("even", [f"item {row}" for row in range(0, NUM_ITEMS, 2)])
    return engine


def search(engine, backend="graph", histories=HISTORIES, k=3, **options):
    before = engine._searcher._graphs is not None
    found = engine.recommend_rows(histories, k, backend=backend, **options)
    assert (engine._searcher._graphs is not None) == (before or backend == "graph")
    return found


def assert_same(got, want):
    assert got[0].tolist() == want[0].tolist()
    np.testing.assert_allclose(got[1], want[1], atol=1e-4)


@pytest.mark.parametrize("has_experts", [False, True], ids=["sum", "experts"])
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_every_form_of_a_model(form, has_experts):
    votes = random_votes(has_experts=has_experts)
    engine = engine_of(form, votes=votes)
    want = [search(engine, "cpp", **options) for options in OPTIONS]
    with pretended_device() as gpu:
        engine = engine_of(form, gpu, votes)
        for options, wanted in zip(OPTIONS, want, strict=True):
            assert_same(search(engine, **options), wanted)


def indifferent(model):
    """All items are alike to the model, so that the evidence alone decides, then the SID."""
    for parameter in model.parameters():
        parameter.zero_()


@settings(max_examples=15)
@given(st.integers(0, 99), st.sampled_from([0.0, 0.02, 0.3]), st.integers(1, 6), st.integers(1, 30))
def test_ties_go_to_the_lower_sid(seed, density, window, beam_width):
    votes = random_votes(seed, density, window)
    for form in (PLAIN, ("code", "codes", "transformer", False)):
        engine = engine_of(form, votes=votes, model=indifferent, beam_width=beam_width)
        assert_same(search(engine), search(engine, "cpp"))


def test_a_batch_is_as_one_by_one():
    engine = engine_of(PLAIN)
    rows, scores = search(engine, exclude_history=True)
    for i, history in enumerate(HISTORIES):
        own = search(engine, histories=[history], exclude_history=True)
        assert_same(own, (rows[i : i + 1], scores[i : i + 1]))


@pytest.mark.parametrize("k", [1, 20, 100])
def test_any_number_of_items(k):
    engine = engine_of(PLAIN)
    assert_same(search(engine, k=k), search(engine, "cpp", k=k))


@pytest.mark.parametrize("form", [PLAIN, ("code", "codes", "transformer", False)], ids=str)
def test_a_catalogue_that_changed(form):
    def change(engine):
        engine.remove_items([f"item {row}" for row in (3, 7, 31)])
        features = np.ones((2, 6), dtype=np.float32) if form[0] == "item" else None
        engine.add_items(new_items(2), engine.sids[[3, 7]], features)

    engine, core = engine_of(form), engine_of(form)
    for k in (3, 30):
        assert_same(search(engine, k=k), search(core, "cpp", k=k))
    change(engine)
    change(core)
    for options in ({}, *OPTIONS):
        for k in (3, 30):
            assert_same(search(engine, k=k, **options), search(core, "cpp", k=k, **options))


def votes_for_new(num_rows, seed):
    matrix = sp.random_array((num_rows, num_rows), density=0.3, rng=seed, format="lil")
    matrix[:, :NUM_ITEMS] = 0
    matrix = sp.csr_array(matrix).astype(np.float32)
    matrix.sort_indices()
    return NewItemVotes(NUM_ITEMS, matrix, offset=-0.25)


@pytest.mark.parametrize("has_experts", [False, True], ids=["sum", "experts"])
def test_votes_for_new_items(has_experts):
    """Graphs outlive them, as long as they fit."""
    form, votes = ("code", "codes", "heads", False), random_votes(has_experts=has_experts)
    engine, core = engine_of(form, votes=votes), engine_of(form, votes=votes)
    for one in (engine, core):
        one.add_items(new_items(2), item_sids(12, seed=5)[:2])
    assert_same(search(engine), search(core, "cpp"))
    graphs = []
    for seed in (1, 2):
        for one in (engine, core):
            one._evidence = one._evidence.with_new_items(votes_for_new(62, seed), 62)
        for options in OPTIONS:
            assert_same(search(engine, **options), search(core, "cpp", **options))
        graphs.append(list(engine._searcher.graph_search()._graphs))
    assert graphs[0] == graphs[1]


def test_other_experts_of_the_same_votes():
    """The memory of graphs takes other numbers; another number of experts makes it anew."""
    engine, core = engine_of(PLAIN), engine_of(PLAIN)
    for votes in (random_votes(has_experts=True), random_votes(1, has_experts=True)):
        votes.indptr, votes.indices = random_votes().indptr, random_votes().indices
        votes.data = np.ones(len(votes.indices), dtype=np.float32)
        votes.experts = random_experts(len(votes.indices), int(votes.data.sum()))
        for one in (engine, core):
            one._evidence = ItemEvidence(votes)
        assert_same(search(engine), search(core, "cpp"))
    for one in (engine, core):
        votes.experts = votes.experts[:1]
        one._evidence = ItemEvidence(votes)
    assert_same(search(engine), search(core, "cpp"))


def test_bad_logits_behind_a_named_item_are_an_error():
    engine = engine_of(("code", "codes", "transformer", False), beam_width=1)
    engine.model.code_embedding.weight[1] = torch.nan  # a code of level 0: what reads it overflows
    is_bad = engine.sids[:, 0] == 1
    bad, good = (int(np.flatnonzero(rows)[0]) for rows in (is_bad, ~is_bad))
    with pytest.raises(NonFiniteLogitsError, match=r"^history 1: "):
        search(engine, histories=[[good], [bad]], k=1)


def test_what_a_graph_cannot_hold_takes_the_steps():
    votes = random_votes()
    votes.indices[:] = votes.indices[::-1].copy()  # no order
    engine = engine_of(PLAIN, votes=votes)
    engine.recommend_rows(HISTORIES, 3, backend="graph")
    assert engine._searcher._graphs is None


@pytest.mark.parametrize("num_experts", [0, 3])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_stays_within_its_budget(options, num_experts):
    """One copy each way, no wait but for the answer; 15 launches more than without evidence.

    An expert takes 5.
    """
    with pretended_device() as gpu:
        engine = engine_of(PLAIN, gpu, random_votes(has_experts=num_experts > 0))
        search(engine, **options)
        gpu.forget()
        search(engine, **options)
        launches, copies, waits = dict(gpu.launches), dict(gpu.copies), dict(gpu.waits)
    assert sorted(copies.values()) == [1, 1]
    assert list(waits) == [key for key in copies if "to host" in key]
    assert sum(launches.values()) <= 84 + 5 * num_experts, launches


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_captured_graphs_give_the_cores_answers(form):
    core = engine_of(form)
    want = [search(core, "cpp", **options) for options in OPTIONS]
    engine = engine_of(form, model=lambda model: model.to("cuda"))
    for options, wanted in zip(OPTIONS, want, strict=True):
        assert_same(search(engine, **options), wanted)
