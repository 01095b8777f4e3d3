"""Searches on a pretended device: no operation mixes devices, and results are those of the CPU."""

import numpy as np
import pytest
import torch
from engines import BOS, catalog_of, random_model, random_sids
from pretended_device import DEVICE, pretended_device

from store_engine.config import DecodingConfig
from store_engine.decoding.engine import Engine

HISTORIES = [[3, 1, 4, 1, 5, 9], [2], [], [7, 1, 8, 2, 8, 1, 8], [30, 31, 32]]
BACKENDS = ["cpp", "torch", "graph"]
# how the engine is made, and what is asked of it
CASES = {
    "plain": ({}, {}),
    "children": ({"normalize": "children"}, {}),
    "batches": ({"batch_size": 2}, {}),
    "filtered": ({}, {"allow": "even | low", "exclude_history": True}),
    "filtered children": (
        {"normalize": "children"},
        {"deny": ["even", None, "low", "low & even", None], "exclude_history": False},
    ),
    "excluded": ({}, {"exclude": [[0, 1], [], [59], [2, 3, 4], list(range(50))]}),
    "cached": ({"prefix_cache_mib": 8.0}, {}),
    "exact": ({}, {"exact": True}),
}

# copies and waits of two such searches today, with cpp and with torch: they may only fall
BUDGETS = {
    "plain": {"cpp": (79, 33), "torch": (31, 33), "graph": (25, 4)},
    "children": {"cpp": (91, 45), "torch": (31, 41), "graph": (25, 4)},
    "batches": {"cpp": (225, 93), "torch": (69, 93), "graph": (40, 8)},
    "filtered": {"cpp": (79, 33), "torch": (41, 53), "graph": (27, 4)},
    "filtered children": {"cpp": (91, 45), "torch": (45, 101), "graph": (31, 4)},
    "excluded": {"cpp": (79, 33), "torch": (39, 53), "graph": (25, 4)},
    "cached": {"cpp": (82, 34), "torch": (34, 34), "graph": (25, 4)},
    "exact": {"cpp": (33, 9), "torch": (33, 9), "graph": (33, 9)},
}


def make_engine(device, num_items=60, num_layers=2, **config):
    torch.manual_seed(0)
    model = random_model(num_layers=num_layers)
    if device is not None:
        device.put(model)
    settings = {"beam_width": 6, "prefix_cache_mib": 0} | config
    engine = Engine(
        model,
        catalog_of(num_items),
        random_sids(num_items),
        bos=BOS,
        max_history=8,
        config=DecodingConfig(**settings),
    )
    engine.define("even", [f"item {row}" for row in range(0, num_items, 2)])
    engine.define("low", [f"item {row}" for row in range(num_items // 3)])
    return engine


@pytest.mark.parametrize("chunk_tokens", [8, 4096])
@pytest.mark.parametrize("options", [{}, {"allow": "even"}], ids=["plain", "filtered"])
def test_exact_waits_for_its_answer_alone(chunk_tokens, options, monkeypatch):
    """Once for bad requests, three times to rank, however many passes; once to make a filter."""
    monkeypatch.setattr("store_engine.decoding.exact._CHUNK_TOKENS", chunk_tokens)
    with pretended_device() as gpu:
        engine = make_engine(gpu)
        search(engine, "graph", HISTORIES, exact=True, **options)
        gpu.forget()
        search(engine, "graph", HISTORIES, exact=True, **options)
        waits = sum(gpu.waits.values())
    assert waits == 4 + bool(options), gpu.waits


def search(engine, backend, histories, k=5, **options):
    return engine.recommend_rows(histories, k, backend=backend, **options)


def assert_same(got, want):
    assert got[0].tolist() == want[0].tolist()
    np.testing.assert_allclose(got[1], want[1], atol=1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", CASES)
def test_no_search_mixes_devices(case, backend, record_property):
    config, options = CASES[case]
    on_host = make_engine(None, **config)
    want = [search(on_host, "cpp", HISTORIES, **options) for _ in range(2)]
    with pretended_device() as gpu:
        engine = make_engine(gpu, **config)
        assert engine.device == DEVICE
        for answer in want:  # the second finds what the first left in the caches
            assert_same(search(engine, backend, HISTORIES, **options), answer)
        report = gpu.report(backend)
        copies, waits = sum(gpu.copies.values()), sum(gpu.waits.values())
    print(report)
    record_property("device", report)
    most_copies, most_waits = BUDGETS[case][backend]
    assert copies <= most_copies, gpu.copies
    assert waits <= most_waits, gpu.waits


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU: kernels are compiled")
@pytest.mark.parametrize("normalize", ["codebook", "children"])
@pytest.mark.parametrize("options", [{}, {"allow": ["even", None]}], ids=["plain", "filtered"])
def test_the_triton_kernels_are_launched_without_a_mix(normalize, options, record_property):
    """On a tiny shape: without a GPU the kernels are interpreted."""
    sizes = {"num_items": 9, "num_layers": 1, "normalize": normalize, "beam_width": 2}
    histories = [[3], []]
    want = search(make_engine(None, **sizes), "cpp", histories, k=2, **options)
    with pretended_device() as gpu:
        engine = make_engine(gpu, **sizes)
        assert_same(search(engine, "triton", histories, k=2, **options), want)
        assert gpu.launches["_beam_attention_kernel"] > 0
        report = gpu.report(f"triton, {normalize}")
    print(report)
    record_property("device", report)


@pytest.mark.parametrize("backend", BACKENDS)
def test_items_come_and_go(backend):
    def change(engine, backend):
        engine.remove_items(["item 3", "item 5"])
        new = catalog_of(62)
        added = type(new)(new.item_ids[60:], {"title": new.fields["title"][60:]})
        engine.add_items(added, random_sids(2, seed=7))
        return search(engine, backend, [[3, 60], [61], []])

    want = change(make_engine(None), "cpp")
    with pretended_device() as gpu:
        assert_same(change(make_engine(gpu), backend), want)


def test_all_items_are_scored():
    want = make_engine(None).score_rows(HISTORIES)
    with pretended_device() as gpu:
        got = make_engine(gpu).score_rows(HISTORIES)
    np.testing.assert_allclose(got, want, atol=1e-4)
