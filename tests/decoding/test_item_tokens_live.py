"""A catalogue that changes, when its items are tokens of the model."""

import threading

import numpy as np
import pytest
import torch
from item_engines import FANOUT, FORMS, NUM_FEATURES, NUM_ITEMS, UPPER, ItemCase, new_items

from store_engine.errors import InputError

HISTORY = [3, 60, 1, 61, 3]  # items that come later among them


@pytest.fixture(params=FORMS, ids=lambda form: "-".join(map(str, form)))
def case(request):
    return ItemCase(*request.param)


def free_sids(case, num, seed=0):
    """SIDs that no item has; prefixes old and, where there is room, new."""
    taken = {tuple(sid) for sid in case.sids.tolist()}
    every = [(a, b, c) for a in range(UPPER[0]) for b in range(UPPER[1]) for c in range(FANOUT)]
    free = np.array([sid for sid in every if sid not in taken], dtype=np.int32)
    return free[np.random.default_rng(seed).permutation(len(free))[:num]]


def features_of(case, num, seed=0):
    if not case.has_rows:
        return None
    return np.random.default_rng(seed).normal(size=(num, NUM_FEATURES)).astype(np.float32)


@pytest.mark.parametrize("backend", ["cpp", "torch"])
def test_new_items_are_as_if_they_had_been_there(case, backend):
    sids, features = free_sids(case, 4), features_of(case, 4)
    engine = case.engine(backend)
    engine.recommend_rows([[1, 2]], 5)
    engine.add_items(new_items(4), sids, features)
    want = case.with_items(sids, features).engine(backend)
    histories = [HISTORY, [63], [], [1, 62]]
    np.testing.assert_allclose(engine.score_rows(histories), want.score_rows(histories), atol=1e-5)
    rows, scores = engine.recommend_rows(histories, 64)
    exact_rows, exact = want.recommend_rows(histories, 64, exact=True)
    np.testing.assert_array_equal(rows, exact_rows)
    np.testing.assert_allclose(scores, exact, atol=1e-5)
    np.testing.assert_array_equal(engine.sids, want.sids)


@pytest.mark.parametrize("normalize", ["codebook", "children"])
def test_what_is_removed_leaves_its_share_to_the_others(normalize):
    case = ItemCase("item", "codes", "heads", False)
    engine = case.engine(normalize=normalize)
    own = (case.sids[:, :2] == case.sids[0, :2]).all(1)  # of one prefix, which stays
    gone = np.flatnonzero(own)[1:]
    engine.remove_items([f"item {row}" for row in gone])
    rows, scores = engine.recommend_rows([[0, *gone.tolist()]], NUM_ITEMS)
    found = rows[0][rows[0] >= 0]
    assert sorted(found.tolist()) == sorted(set(range(NUM_ITEMS)) - set(gone.tolist()))
    total = torch.from_numpy(scores[0, : len(found)]).logsumexp(0)
    torch.testing.assert_close(total, torch.zeros(()), atol=1e-5, rtol=0)


def test_an_item_comes_back_as_another():
    case = ItemCase("item", "items", "heads", False)
    engine = case.engine()
    before = engine.score_rows([[5, 2]])
    engine.remove_items(["item 5"])
    catalog = type(engine.catalog)(("item 5",), {"title": ("Title",)})
    engine.add_items(catalog, case.sids[5:6], features_of(case, 1))
    after = engine.score_rows([[5, 2]])
    assert after.shape == before.shape
    assert np.abs(after[0] - before[0]).max() > 1e-3  # it is read anew, and has a new row


def test_many_additions_grow_the_storage():
    case = ItemCase("item", "codes", "transformer", True)
    engine, sids = case.engine(), free_sids(case, 100)
    features = features_of(case, 100)
    for begin in range(0, 100, 20):
        part = slice(begin, begin + 20)
        catalog = new_items(100)
        catalog = type(catalog)(catalog.item_ids[part], {"title": catalog.fields["title"][part]})
        engine.add_items(catalog, sids[part], features[part])
    at_once = case.engine()
    at_once.add_items(new_items(100), sids, features)
    np.testing.assert_allclose(
        engine.score_rows([HISTORY, [159]]), at_once.score_rows([HISTORY, [159]]), atol=1e-5
    )


def test_a_call_sees_no_half_change():
    case = ItemCase("item", "items", "heads", False)
    engine, sids, features = case.engine(), free_sids(case, 30), features_of(case, 30)
    failures, is_done = [], threading.Event()

    def read():
        while not is_done.is_set():
            rows, scores = engine.recommend_rows([[1, 2, 3]], 60 + 30)
            found = scores[0][rows[0] >= 0]
            if abs(np.logaddexp.reduce(found)) > 1e-4:
                failures.append(scores)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for n in range(30):
        catalog = type(new_items(1))((f"new {n}",), {"title": ("x",)})
        engine.add_items(catalog, sids[n : n + 1], features[n : n + 1])
        if n % 3 == 2:
            engine.remove_items([f"new {n - 1}"])
    is_done.set()
    for reader in readers:
        reader.join()
    assert not failures


WRONG = {
    "none": (None, r"new items need features, \(1, 6\) numbers"),
    "too few": (np.zeros((1, 5), np.float32), r"features must be \(1, 6\) numbers, got \(1, 5\)"),
    "of two items": (np.zeros((2, 6), np.float32), r"features must be \(1, 6\) numbers"),
    "text": (np.full((1, 6), "x"), r"features must be \(1, 6\) numbers"),
    "a NaN": (np.full((1, 6), np.nan), "features must be finite"),
    "more than float32 holds": (np.full((1, 6), 1e300), "features must be finite"),
}


@pytest.mark.parametrize(("features", "message"), WRONG.values(), ids=WRONG)
def test_refuses_features(features, message):
    case = ItemCase("item", "codes", "heads", False)
    engine = case.engine()
    with pytest.raises(InputError, match=message):
        engine.add_items(new_items(1), free_sids(case, 1), features)
    assert engine.catalog.num_items == NUM_ITEMS


@pytest.mark.parametrize("history", ["codes", "items"])
def test_refuses_features_of_items_without_rows(history):
    case = ItemCase("code", history, "heads", False)
    with pytest.raises(InputError, match="features are of use only where"):
        case.engine().add_items(new_items(1), free_sids(case, 1), np.zeros((1, 6), np.float32))


def test_refuses_a_sid_that_is_taken():
    case = ItemCase("item", "codes", "heads", False)
    engine, features = case.engine(), features_of(case, 2)
    with pytest.raises(InputError, match="two items have the SID"):
        engine.add_items(new_items(1), case.sids[4:5], features[:1])
    twice = free_sids(case, 1).repeat(2, axis=0)
    with pytest.raises(InputError, match="two items have the SID"):
        engine.add_items(new_items(2), twice, features)
    assert engine.trie.num_items == NUM_ITEMS
    engine.remove_items(["item 4"])
    engine.add_items(new_items(1), case.sids[4:5], features[:1])  # its place is free now
    assert 60 in engine.recommend_rows([[1]], 60)[0]
