import numpy as np
import pytest
from item_engines import FANOUT, NUM_FEATURES, NUM_ITEMS, UPPER, ItemCase, new_items

from benchmarks.quality.cold_figures import cold_figures, rows_of, text_neighbours, top_rows
from benchmarks.quality.cold_split import ColdExamples
from store_engine.data.catalog import Catalog


def test_the_nearest_by_text_come_first_and_later_events_count_more():
    titles = ("red lipstick", "red lipstick gloss", "blue hammer", "blue hammer steel", "a fork")
    catalog = Catalog(tuple("abcde"), {"title": titles})
    histories = [np.array([0, 2], np.int32), np.array([2, 0], np.int32)]
    scores = text_neighbours(catalog, histories)
    ranked = top_rows(scores, histories)
    assert ranked[:, :2].tolist() == [[3, 1], [1, 3]]
    assert ranked.shape == (2, 5)
    assert sorted(ranked[0, :3].tolist()) == [1, 3, 4]
    assert (ranked[:, 3:] == -1).all()  # the history is left out


def test_a_ranking_among_some_items_has_no_others():
    scores = np.arange(20, dtype=np.float32)[None]
    history = [np.array([19], np.int32)]
    assert top_rows(scores, history, np.array([3, 17, 19]))[0, :3].tolist() == [17, 3, -1]
    assert top_rows(scores, history)[0].tolist() == list(range(18, 8, -1))
    assert scores[0, 19] == 19


def test_examples_by_rows():
    found = rows_of(ColdExamples([["b", "a"], ["c", "b", "a"]], ["d", "d"]), list("abcd"))
    assert [history.tolist() for history in found.histories] == [[1, 0], [2, 1, 0]]
    assert found.targets.tolist() == [3, 3]


def test_cold_figures_equal_exact_scores():
    case = ItemCase("item", "items", "heads", False)
    taken = {tuple(sid) for sid in case.sids.tolist()}
    every = [(a, b, c) for a in range(UPPER[0]) for b in range(UPPER[1]) for c in range(FANOUT)]
    sids = np.array([sid for sid in every if sid not in taken][:12], dtype=np.int32)
    features = np.random.default_rng(0).normal(size=(12, NUM_FEATURES)).astype(np.float32)
    engine = case.engine(beam_width=72)
    engine.add_items(new_items(12), sids, features)
    rng = np.random.default_rng(1)
    histories = [rng.integers(0, NUM_ITEMS, 3).astype(np.int32) for _ in range(200)]
    targets = rng.integers(NUM_ITEMS, NUM_ITEMS + 12, 200).astype(np.int32)
    examples = type(rows_of(ColdExamples([], []), []))(histories, targets)
    figures = cold_figures(engine, examples, NUM_ITEMS)
    exact = engine.score_rows(histories)
    own = exact[np.arange(200), targets]
    rank = (exact[:, NUM_ITEMS:] > own[:, None]).sum(1)
    assert figures["num_examples"] == 200
    assert figures["among_cold"]["ours"]["recall@1"] == pytest.approx((rank < 1).mean())
    assert figures["among_cold"]["ours"]["recall@10"] == pytest.approx((rank < 10).mean())
    assert figures["among_cold"]["random"] == {"recall@1": 1 / 12, "recall@10": 10 / 12}
    for history, scores in zip(histories, exact, strict=True):
        scores[history] = -np.inf
    rank = (exact > own[:, None]).sum(1)
    assert figures["full_catalogue"]["ours"]["recall@10"] == pytest.approx((rank < 10).mean())
