"""The search by graphs at its edges, on the pretended device: always the C++ core's answers."""

import threading

import numpy as np
import pytest
import torch
from engines import BOS, catalog_of, random_model, random_sids
from pretended_device import pretended_device

from store_engine.config import DecodingConfig
from store_engine.data.catalog import Catalog
from store_engine.decoding.engine import Engine

HISTORIES = [[3, 1, 4, 1, 5, 9], [2], [], [7, 1, 8, 2, 8, 1, 8]]
EVERY = list(range(60))
LONG = [(7 * i) % 60 for i in range(1366)]
PLAIN = ({}, {"normalize": "children"}, {"allow": "even", "exclude_history": True}, {"k": 100})
# how the engine is made, and what is asked of it
CASES = {
    "nothing is allowed": ({}, ({"allow": "none"}, {"deny": "even | ~even"})),
    "one item is allowed": ({}, ({"allow": ["none", "even", None, "first"]},)),
    "all is excluded": ({}, ({"exclude": [EVERY] * 4}, {"exclude": [EVERY, [], [0] * 40, [1]]})),
    "one item": ({"num_items": 1, "histories": [[0, 0], []]}, (*PLAIN, {"allow": "none"})),
    "one code": ({"num_items": 5, "sizes": (1,), "histories": [[0], []]}, PLAIN),
    "more beams than items": ({}, ({"beam_width": 3000}, {"k": 500})),
    "one level": ({"sizes": (60,)}, PLAIN),
    "eight levels": ({"sizes": (1, 9, 2, 300, 1, 4, 2, 3)}, PLAIN),
    "head_dim=48": ({"head_dim": 48}, PLAIN),
    "head_dim=80": ({"head_dim": 80, "num_heads": 3, "num_kv_heads": 3}, PLAIN),
    "no history": ({"histories": [[], []]}, PLAIN),
    "4,096 tokens": ({"histories": [LONG[:1365], []]}, ({},)),
    "4,099 tokens": ({"histories": [LONG, []]}, ({},)),
}


def make_engine(gpu=None, num_items=60, sizes=(6, 5, 7), dtype=torch.float32, **model):
    torch.manual_seed(0)
    store_model = random_model(sizes, **model).to(dtype)
    if gpu is not None:
        gpu.put(store_model)
    config = DecodingConfig(beam_width=6, prefix_cache_mib=0)
    parts = catalog_of(num_items), random_sids(num_items, sizes)
    engine = Engine(store_model, *parts, bos=BOS, max_history=2000, config=config)
    engine.define("even", [f"item {row}" for row in range(0, num_items, 2)])
    engine.define("none", [])
    engine.define("first", ["item 0"])
    return engine


def search(engine, backend, histories=HISTORIES, k=5, **options):
    return engine.recommend_rows(histories, k, backend=backend, **options)


def assert_same(got, want):
    assert got[0].tolist() == want[0].tolist()
    np.testing.assert_allclose(got[1], want[1], atol=1e-4)


@pytest.mark.parametrize("case", CASES)
def test_finds_what_the_core_finds(case):
    made, asked = CASES[case]
    shape = dict(made)
    histories = shape.pop("histories", HISTORIES)
    core = make_engine(**shape)
    want = [search(core, "cpp", histories, **options) for options in asked]
    with pretended_device() as gpu:
        engine = make_engine(gpu, **shape)
        for options, wanted in zip(asked, want, strict=True):
            assert_same(search(engine, "graph", histories, **options), wanted)


def test_an_item_that_went_and_came_back():
    def change(engine, backend):
        answers = [search(engine, backend)]
        engine.remove_items(["item 3"])
        answers.append(search(engine, backend, exclude_history=True))
        engine.add_items(Catalog(("item 3",), {"title": ("x",)}), engine.sids[[3]])
        return [*answers, search(engine, backend)]

    want = change(make_engine(), "cpp")
    with pretended_device() as gpu:
        for got, wanted in zip(change(make_engine(gpu), "graph"), want, strict=True):
            assert_same(got, wanted)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("allow", [None, "even"])
def test_half_precision_is_as_near_to_the_truth_as_the_core(dtype, allow):
    truth, core = make_engine().score_rows(HISTORIES), make_engine(dtype=dtype)
    options = {"k": 60, "beam_width": 60, "allow": allow}
    with pretended_device() as gpu:
        got = search(make_engine(gpu, dtype=dtype), "graph", **options)
    errors = []
    for rows, scores in (search(core, "cpp", **options), got):
        assert ((rows >= 0).sum(1) == (60 if allow is None else 30)).all()
        is_item = rows >= 0
        own = np.take_along_axis(truth, rows.clip(min=0), 1)
        errors.append(np.square(scores - own, where=is_item, out=np.zeros_like(own)).sum())
    assert errors[1] <= 2 * errors[0]


def test_threads_filter_while_another_changes_the_items():
    """On the host: no item is found by a call that began after it was removed."""
    engine, gone, failures = make_engine(), set(), []
    search(engine, "graph")
    is_over = threading.Event()

    def ask(allow):
        try:
            while not is_over.is_set():
                before = set(gone)
                rows, _ = search(engine, "graph", allow=allow, exclude_history=True)
                found = {engine.catalog.item_ids[row] for row in rows.flat if row >= 0}
                if found & before:
                    failures.append(found & before)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=ask, args=(allow,)) for allow in (None, "even")]
    for thread in threads:
        thread.start()
    for n in range(60):
        titles = {"title": ("x", "y", "z")}
        engine.add_items(Catalog((f"a{n}", f"b{n}", f"c{n}"), titles), random_sids(3, seed=n))
        engine.remove_items([f"a{n}", f"b{n}"])
        gone |= {f"a{n}", f"b{n}"}
        search(engine, "graph", allow="even")
    is_over.set()
    for thread in threads:
        thread.join()
    assert not failures
    assert_same(search(engine, "graph"), search(engine, "cpp"))
