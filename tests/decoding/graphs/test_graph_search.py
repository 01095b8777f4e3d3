"""The search by graphs: the C++ core's answers, on a pretended device within a budget."""

import threading

import numpy as np
import pytest
import torch
from engines import BOS, catalog_of, random_model, random_sids
from hypothesis import given, settings
from hypothesis import strategies as st
from item_engines import FORMS, ItemCase
from pretended_device import pretended_device

from store_engine.config import DecodingConfig
from store_engine.decoding.backends import NonFiniteLogitsError
from store_engine.decoding.engine import Engine
from store_engine.decoding.graphs import graph_search
from store_engine.decoding.graphs.graph_search import Requests, Sizes

HISTORIES = [[3, 1, 4, 1, 5, 9], [2], [], [7, 1, 8, 2, 8, 1, 8]]
LEVELS = (9, 9, 9, 9)


def make_engine(device=None, num_items=60, sizes=(6, 5, 7), model=None, sids=None, **config):
    torch.manual_seed(0)
    model = random_model(sizes) if model is None else model
    if device is not None:
        device.put(model)
    sids = random_sids(num_items, sizes) if sids is None else sids
    config = DecodingConfig(**({"beam_width": 6, "prefix_cache_mib": 0} | config))
    engine = Engine(model, catalog_of(len(sids)), sids, bos=BOS, config=config, max_history=8)
    engine.define("even", [f"item {row}" for row in range(0, len(sids), 2)])
    return engine


def search(engine, backend="graph", histories=HISTORIES, k=5, **options):
    return engine.recommend_rows(histories, k, backend=backend, **options)


def assert_same(got, want):
    assert got[0].tolist() == want[0].tolist()
    np.testing.assert_allclose(got[1], want[1], atol=1e-4)


def graphs_of(engine):
    """The graphs that were made."""
    return list(engine._searcher.graph_search()._graphs.values())


@st.composite
def searches(draw):
    """A catalogue, and a batch of requests."""
    sizes = tuple(draw(st.lists(st.integers(1, 7), min_size=1, max_size=4)))
    num_items = draw(st.integers(1, 60))
    rows = st.lists(st.integers(0, num_items - 1), max_size=10)
    histories = draw(st.lists(rows, min_size=1, max_size=5))
    k = draw(st.integers(1, 8))
    sets = st.sampled_from([None, "even", "~even", "none"])
    options = {
        "beam_width": k + draw(st.integers(0, 30)),
        "normalize": draw(st.sampled_from(["codebook", "children"])),
        "exclude_history": draw(st.booleans()),
        "exclude": [draw(rows) for _ in histories],
        "allow": [draw(sets) for _ in histories],
        "deny": draw(sets),
    }
    return sizes, num_items, draw(st.integers(0, 99)), histories, k, options


@settings(max_examples=40)
@given(searches())
def test_finds_what_the_core_finds(case):
    sizes, num_items, seed, histories, k, options = case
    sids = random_sids(num_items, sizes, seed)
    answers = []
    for name in ("cpp", "graph"):
        engine = make_engine(sizes=sizes, sids=sids)
        engine.define("none", [])
        answers.append(search(engine, name, histories, k, **options))
    assert_same(*reversed(answers))


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_every_form_of_a_model(form):
    def ask(case, backend):
        engine = case.engine(beam_width=7)
        engine.define("even", [f"item {row}" for row in range(0, 60, 2)])
        filtered = {"allow": "even", "exclude_history": True}
        asked = [{}, {"normalize": "children"}, filtered, filtered | {"normalize": "children"}]
        return [search(engine, backend, **options) for options in asked]

    want = ask(ItemCase(*form), "cpp")
    with pretended_device() as gpu:
        case = ItemCase(*form)
        gpu.put(case.model)
        for got, wanted in zip(ask(case, "graph"), want, strict=True):
            assert_same(got, wanted)


def ties():
    """A model to which all codes of a level are alike."""
    model = random_model()
    model.code_head.weight.zero_()
    return model


def test_of_equals_the_lower_sid_is_first():
    want = search(make_engine(model=ties()), "cpp", k=20, beam_width=20)
    got = search(make_engine(model=ties()), "graph", k=20, beam_width=20)
    assert len(set(want[1][0].tolist())) == 1  # they are equals
    assert_same(got, want)


def test_a_batch_is_as_one_by_one():
    engine = make_engine()
    rows, scores = search(engine, exclude_history=True)
    for i, history in enumerate(HISTORIES):
        own = search(engine, histories=[history], exclude_history=True)
        assert_same(own, (rows[i : i + 1], scores[i : i + 1]))


def test_more_requests_and_sets_than_one_graph_takes():
    engine = make_engine(beam_width=4)
    sets = [f"set {i}" for i in range(70)]
    for i, name in enumerate(sets):
        engine.define(name, [f"item {row}" for row in range(i % 50, 60, 3)])
    histories, allow = [[i % 60] for i in range(100)], [f"'{sets[i % 70]}'" for i in range(100)]
    for _ in range(2):  # the second finds that its first sets went
        got = search(engine, "graph", histories, k=3, allow=allow)
        assert_same(got, search(engine, "cpp", histories, k=3, allow=allow))


CHANGES = st.lists(
    st.tuples(st.sampled_from(["add", "remove"]), st.integers(1, 30), st.integers(0, 99)),
    min_size=1,
    max_size=4,
)


@settings(max_examples=15)
@given(CHANGES)
def test_items_come_and_go(changes):
    """Every answer is the core's, whether the arrays still fit the memory or not."""
    graph, core = make_engine(num_items=40), make_engine(num_items=40)
    there, number = [f"item {row}" for row in range(40)], 0
    for kind, num, seed in changes:
        if kind == "add":
            names = [f"new {number + i}" for i in range(num)]
            number += num
            items = type(catalog_of(1))(tuple(names), {"title": tuple(names)})
            for engine in (graph, core):
                engine.add_items(items, random_sids(num, seed=seed))
            there += names
        else:
            names = [there.pop(seed % len(there)) for _ in range(min(num, len(there) - 1))]
            for engine in (graph, core):
                engine.remove_items(names)
        for options in ({}, {"allow": "even", "exclude_history": True}):
            assert_same(search(graph, "graph", **options), search(core, "cpp", **options))


def test_graphs_outlive_a_change_that_fits():
    engine = make_engine()
    search(engine)
    before = graphs_of(engine)
    engine.remove_items(["item 3", "item 5"])
    assert_same(search(engine), search(engine, "cpp"))
    assert graphs_of(engine) == before
    items = catalog_of(260)
    new = type(items)(items.item_ids[60:], {"title": items.fields["title"][60:]})
    engine.add_items(new, random_sids(200, seed=3))
    assert_same(search(engine), search(engine, "cpp"))
    assert len(graphs_of(engine)) == 1
    assert graphs_of(engine) != before


@pytest.mark.parametrize("form", [f for f in FORMS if "items" in f or f[0] == "item"], ids=str)
def test_item_vectors_come_and_go(form):
    """New rows are read and written, in the storage of the old ones or in a larger one."""
    engines = ItemCase(*form).engine(beam_width=7), ItemCase(*form).engine(beam_width=7)
    answers = []
    for engine, backend in zip(engines, ("graph", "cpp"), strict=True):
        own = [search(engine, backend)]
        engine.remove_items(["item 3", "item 5"])
        own.append(search(engine, backend))
        gone = engine.sids[[3, 5]]
        items = type(catalog_of(1))(("new 0", "new 1"), {"title": ("a", "b")})
        features = np.ones((2, 6), dtype=np.float32) if form[0] == "item" else None
        engine.add_items(items, gone, features)
        own.append(search(engine, backend, [[60, 3], [61]]))
        answers.append(own)
    for got, want in zip(*answers, strict=True):
        assert_same(got, want)


@pytest.mark.parametrize(
    ("num_tokens", "want"),
    [(1, 64), (65, 128), (1000, 1024), (1025, 2048), (2049, 3072), (4096, 4096)],
)
def test_shapes_of_contexts_are_few(num_tokens, want):
    assert graph_search._context(num_tokens) == want


def test_a_long_history():
    engine = make_engine()
    engine._searcher._max_history = 400
    history = [[(7 * i) % 60 for i in range(400)], [3]]  # 1,201 tokens and 4
    want = search(engine, "cpp", history)
    assert engine._searcher._graphs is None
    assert_same(search(engine, histories=history), want)
    assert engine._searcher._graphs is not None


def settle(engine):
    """Lets what was changed be written; returns the catalogue on the device."""
    graphs = engine._searcher.graph_search()
    while (writer := graphs._writer) is not None:
        writer.join()
    return graphs._catalog


def test_changes_are_written_before_a_search_needs_them():
    engine, core = make_engine(), make_engine()
    search(engine)
    for one in (engine, core):
        one.define("new", ["item 1", "item 7", "item 9"])
    assert settle(engine)._sets._index.keys() == set(engine._items.view.sets.newest(8))
    for one in (engine, core):
        one.remove_items(["item 7"])
        one.remove_items(["item 3"])
    catalog, view = settle(engine), engine._items.view.compacted
    assert catalog._view is view
    options = {"allow": "new", "exclude_history": True}
    index = dict(catalog._sets._index)
    assert_same(search(engine, **options), search(core, "cpp", **options))
    assert catalog._sets._index.keys() == index.keys() == set(view.sets.newest(8))


def test_nothing_is_written_where_nobody_searches_by_graphs():
    engine = make_engine()
    engine.define("new", ["item 1"])
    assert engine._searcher._graphs is None


def test_threads_with_different_catalogues_get_their_own_answers():
    engine, old = make_engine(), make_engine()
    want = {"old": search(old, "cpp"), "new": None}
    old_view = engine._items.view
    engine.remove_items([f"item {row}" for row in want["old"][0][0].tolist()])
    new_view = engine._items.view.compacted
    want["new"] = search(engine, "cpp")
    graphs, failures = engine._searcher.graph_search(), []

    def ask(view, rows):
        histories = [np.array(history, dtype=np.int64) for history in HISTORIES]
        requests = Requests(histories, [None] * 4, [[]] * 4, histories)
        for _ in range(5):
            best = graphs.search(view, requests, Sizes(6, 5), "codebook")
            if not np.array_equal(best.rows[:, :5], rows):
                failures.append((best.rows, rows))

    pairs = [(old_view, want["old"][0]), (new_view, want["new"][0])] * 2
    threads = [threading.Thread(target=ask, args=pair) for pair in pairs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_a_bad_history_is_named_and_leaves_nothing_behind():
    engine = make_engine()
    engine.model.code_embedding.weight[1] = torch.nan  # a code of level 0: what reads it overflows
    is_bad = engine.sids[:, 0] == 1
    bad, good = (int(np.flatnonzero(rows)[0]) for rows in (is_bad, ~is_bad))
    engine.define("good", [f"item {row}" for row in np.flatnonzero(~is_bad)])
    want = search(engine, histories=[[good], [good]], allow="good")
    with pytest.raises(NonFiniteLogitsError, match=r"^history 1: "):
        search(engine, histories=[[good], [bad]], allow="good")
    assert_same(search(engine, histories=[[good], [good]], allow="good"), want)


def test_what_graphs_do_not_do_takes_the_steps(monkeypatch):
    monkeypatch.setattr("store_engine.decoding.search_batch.MAX_CONTEXT", 10)
    engine = make_engine()
    assert_same(search(engine), search(engine, "cpp"))
    assert engine._searcher._graphs is None
    search(engine, histories=[[1, 2]])
    assert engine._searcher._graphs is not None


def test_warm_up_makes_the_graphs_of_later_requests():
    engine = make_engine()
    options = {"backend": "graph", "allow": "even", "exclude_history": True, "beam_width": 6}
    engine.warm_up([(4, 8), (1, 8)], 5, **options)
    before = graphs_of(engine)
    assert len(before) == 2
    engine.recommend_rows(HISTORIES, 5, **options)
    engine.recommend_rows(HISTORIES[:1], 5, **options)
    assert sorted(map(id, graphs_of(engine))) == sorted(map(id, before))


@pytest.mark.parametrize("shapes", [[3], [(1,)], ["ab"], [(0, 1)], [(1, -1)], [(1, 2.5)]], ids=str)
def test_warm_up_refuses_what_is_no_shape(shapes):
    with pytest.raises((TypeError, ValueError), match="shape"):
        make_engine().warm_up(shapes)


@pytest.mark.parametrize("normalize", ["codebook", "children"])
@pytest.mark.parametrize("options", [{}, {"allow": "even", "exclude_history": True}], ids=str)
def test_stays_within_its_budget(options, normalize):
    """Of launches, 28 layers deep; no wait but for the answer, one copy each way."""
    num_layers, num_levels = 28, len(LEVELS)
    with pretended_device() as gpu:
        model = random_model(LEVELS, num_layers=num_layers)
        engine = make_engine(gpu, 500, LEVELS, model, beam_width=20, normalize=normalize)
        search(engine, **options)
        gpu.forget()
        search(engine, **options)
        launches, copies, waits = dict(gpu.launches), dict(gpu.copies), dict(gpu.waits)
    assert sorted(copies.values()) == [1, 1]
    assert sorted(key.split(",")[0] for key in copies) == ["copy_ to device", "copy_ to host"]
    assert list(waits) == [key for key in copies if "to host" in key]
    num_passes = num_levels  # the first is the prefill
    assert sum(launches.values()) <= 9 * num_layers * num_passes + 2 * num_levels + 10, launches


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("normalize", ["codebook", "children"])
def test_captured_graphs_give_the_cores_answers(normalize):
    want = make_engine(normalize=normalize)
    model = random_model().to("cuda")
    model.load_state_dict(want.model.state_dict())
    engine = make_engine(model=model, normalize=normalize)
    for options in ({}, {"allow": "even", "exclude_history": True}, {}):
        assert_same(search(engine, **options), search(want, "cpp", **options))
    for one in (engine, want):
        one.remove_items(["item 3", "item 5"])
    assert_same(search(engine), search(want, "cpp"))
