import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from store_engine.data.catalog import Catalog
from store_engine.errors import InputError
from store_engine.inference.cpu_model import CpuTransformer

HOW = [{}, {"backend": "torch"}, {"exact": True}]


def items(*numbers):
    ids = tuple(f"item {n}" for n in numbers)
    return Catalog(ids, {"title": tuple(f"New {i}" for i in ids)})


def codes(rng, num_items, sizes=(6, 5, 7)):
    return rng.integers(0, sizes, (num_items, len(sizes))).astype(np.int32)


@pytest.mark.parametrize("normalize", ["codebook", "children"])
@pytest.mark.parametrize("options", HOW, ids=str)
def test_equals_an_engine_of_the_same_items(make_engine, options, normalize):
    rng = np.random.default_rng(0)
    config = {"beam_width": 90, "normalize": normalize}
    engine = make_engine(**config)
    sids = {f"item {row}": sid for row, sid in enumerate(engine.sids)}
    live = set(sids)
    engine.define("even", [f"item {n}" for n in range(0, 60, 2)])
    history = [["item 3", "item 7"], ["item 59"]]
    next_number = 60
    for step in range(6):
        gone = rng.choice(sorted(live), 7, replace=False).tolist()
        engine.remove_items(gone)
        live -= set(gone)
        new = [*range(next_number, next_number + 4)]
        next_number += 4
        if step > 2:  # some come back, with another SID
            back = rng.choice(sorted(set(sids) - live), 2, replace=False)
            new += [int(one.split()[1]) for one in back]
        added = items(*new)
        their_sids = codes(rng, len(new))
        engine.add_items(added, their_sids)
        sids |= dict(zip(added.item_ids, their_sids, strict=True))
        live |= set(added.item_ids)

        torch.manual_seed(0)  # the same weights
        order = sorted(live, key=list(sids).index)
        fresh = make_engine(sids=np.stack([sids[i] for i in order]), **config)
        names = dict(zip(fresh.catalog.item_ids, order, strict=True))
        back = {order: name for name, order in names.items()}
        fresh.define("even", [back[i] for i in order if int(i[5:]) < 60 and int(i[5:]) % 2 == 0])
        seen = [[i for i in one if i in live] for one in history]
        for filters in ({}, {"allow": "even"}, {"deny": "even", "exclude": seen}):
            got = engine.recommend(seen, 60, **filters, **options)
            if "exclude" in filters:
                filters = filters | {"exclude": [[back[i] for i in one] for one in seen]}
            want = fresh.recommend([[back[i] for i in one] for one in seen], 60, **filters)
            for one, other in zip(got, want, strict=True):
                assert [i.item_id for i in one] == [names[i.item_id] for i in other]
                scores = [i.logprob for i in one], [i.logprob for i in other]
                np.testing.assert_allclose(*scores, atol=1e-4)


@pytest.fixture
def count_passes():
    """Counts the forward passes of any engine while a function runs."""

    def count(function):
        passes = []

        def note(module, *_):
            if isinstance(module, CpuTransformer):
                passes.append(module)

        hook = torch.nn.modules.module.register_module_forward_hook(note)
        try:
            function()
        finally:
            hook.remove()
        return len(passes)

    return count


def test_forced_suffixes_cost_no_pass(make_engine, count_passes):
    """With a filter, and after changes, where each first code leads to one item that is left."""
    sids = codes(np.random.default_rng(0), 120)
    sids[:, 0] = np.arange(120) % 6
    engine = make_engine(sids=sids, beam_width=40, normalize="children")
    engine.define("few", [f"item {n}" for n in range(12)])
    history = [["item 3", "item 7"], ["item 20"]]

    def num_passes(filters):
        """Of the C++ beam step, which finds what the other ways find."""
        found = [engine.recommend(history, 40, **filters, **options) for options in HOW]
        for others in found[1:]:
            for one, other in zip(found[0], others, strict=True):
                assert [i.item_id for i in one] == [i.item_id for i in other]
                np.testing.assert_allclose(*([i.logprob for i in x] for x in (one, other)), 1e-4)
        return count_passes(lambda: engine.recommend(history, 40, **filters))

    first, mixed = (0, 1, 2, 3, 4, 5), (0, 1, 8, 3, 4, 11)
    filters = [
        {"allow": "few", "exclude": [[f"item {n}" for n in numbers]] * 2}
        for numbers in (first, mixed)
    ]
    assert num_passes({}) == 3
    assert [num_passes(one) for one in filters] == [1, 1]
    gone = [n for n in range(12, 120) if n % 5 == 4]
    engine.remove_items([f"item {n}" for n in (4, *gone)])
    engine.add_items(items(4, 120), sids[4:6])
    assert num_passes({}) == 3
    assert [num_passes(one) for one in filters] == [1, 1]
    left = {*range(6, 121)} - {*gone}
    engine.remove_items([f"item {n}" for n in left])
    assert num_passes({}) == 1


def test_what_was_removed_is_never_found_but_stays_readable(make_engine):
    engine = make_engine(beam_width=90)
    want, _ = engine.recommend_rows([[3, 7]], 60)
    gone = [f"item {n}" for n in range(0, 60, 3)]
    engine.remove_items(gone)
    rows, _ = engine.recommend_rows([[3, 7]], 60)
    assert rows[0, :40].tolist() == [row for row in want[0] if row % 3]
    assert (rows[0, 40:] == -1).all()
    scores = engine.score_rows([[3, 7]])
    assert (scores[0, ::3] == -np.inf).all() and (scores[0, 1::3] > -np.inf).all()
    assert len(engine.recommend([["item 3"]], 5, exclude=[["item 6", "item 1"]])[0]) == 5


def test_texts_and_sids_follow(make_engine):
    engine = make_engine()
    rng = np.random.default_rng(0)
    sids = codes(rng, 3)
    engine.add_items(items(60, 61, 62), sids)
    assert engine.catalog.fields["title"][58:] == (
        "Title [of] item 58",
        "Title [of] item 59",
        "New item 60",
        "New item 61",
        "New item 62",
    )
    np.testing.assert_array_equal(engine.sids[60:], sids)
    engine.remove_items(["item 5", "item 61"])
    engine.add_items(items(61), sids[:1])
    assert engine.catalog.num_items == 63
    np.testing.assert_array_equal(engine.sids[61], sids[0])
    assert engine.trie.num_items == 62


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e: e.add_items(items(60, 3), np.zeros((2, 3), np.int32)), "'item 3' is in the cat"),
        (lambda e: e.add_items(items(60), np.zeros((1, 2), np.int32)), r"= \(1, 3\), got \(1, 2\)"),
        (lambda e: e.add_items(items(60), np.array([[0, 5, 0]], np.int32)), "code 5 of level 1 is"),
        (lambda e: e.add_items(items(60), np.array([[-1, 0, 0]], np.int32)), "code -1 of level 0"),
        (
            lambda e: e.add_items(Catalog(("x",), {"name": ("X",)}), np.zeros((1, 3), np.int32)),
            "fields must be title, got name",
        ),
        (lambda e: e.remove_items(["item 3", "nobody"]), "unknown item id 'nobody'"),
        (lambda e: e.remove_items(["item 3", "item 3"]), "named twice"),
        (lambda e: e.remove_items([f"item {n}" for n in range(60)]), "at least one item"),
        (lambda e: [e.remove_items(["item 9"]) for _ in range(2)], "'item 9' was removed already"),
    ],
    ids=["there", "shape", "code", "negative", "fields", "unknown", "twice", "all", "gone"],
)
def test_refuses_and_changes_nothing(make_engine, change, message):
    engine = make_engine()
    with pytest.raises(InputError, match=message):
        change(engine)
    assert engine.trie.num_items in (59, 60)
    assert engine.catalog.num_items == 60
    assert len(engine.recommend([["item 3"]], 20)[0]) == 20


def test_threads_search_while_others_change(make_engine):
    engine = make_engine(beam_width=60)
    stop, rng = threading.Event(), np.random.default_rng(0)

    def search(seed):
        """Items that are always there are always found, and nothing twice."""
        found = 0
        while not stop.is_set():
            rows, _ = engine.recommend_rows([[seed, 1], [2]], 150)
            for one in rows.tolist():
                kept = [row for row in one if row >= 0]
                assert len(set(kept)) == len(kept)
                assert set(kept) >= set(range(0, 40, 2)), kept
            found += 1
        return found

    with ThreadPoolExecutor(3) as pool:
        jobs = [pool.submit(search, seed) for seed in range(3)]
        try:
            for n in range(60):
                engine.remove_items([f"item {2 * (n % 20) + 1}"])
                engine.add_items(items(2 * (n % 20) + 1, 100 + n), codes(rng, 2))
                if n % 3 == 0:
                    engine.remove_items([f"item {100 + n}"])
        finally:
            stop.set()
        assert all(job.result() > 0 for job in jobs)
