"""The baselines: by hand, against a plain loop, and against the numbers stated for public data."""

import os
from pathlib import Path

import numpy as np
import pytest

from store_engine.collaborative.co_visits import event_counts
from store_engine.config import DataConfig, EvidenceConfig
from store_engine.data.histories import Histories
from store_engine.data.load import load_dataset
from store_engine.data.split import leave_one_out
from store_engine.data.synthetic import synthetic
from store_engine.evaluation import baselines
from store_engine.evaluation.baselines import (
    co_visitation,
    ease,
    evidence_rankings,
    own_items,
    popularity,
)
from store_engine.evaluation.metrics import ranking_metrics

SHARED = Path(__file__).parents[3] / "shared" / "data"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "store_engine"
FILES = {
    "ml-100k": CACHE / "ml-100k" / "ml-100k.inter",
    "beauty": SHARED / "beauty" / "interactions.csv",
    "office": SHARED / "office" / "interactions.csv",
}


def histories(*sequences: list[int]) -> Histories:
    offsets = np.cumsum([0, *map(len, sequences)])
    rows = np.array([row for sequence in sequences for row in sequence], dtype=np.int32)
    return Histories(tuple(f"u{i}" for i in range(len(sequences))), rows, offsets)


def rows(*sequences: list[int]) -> list[np.ndarray]:
    return [np.array(sequence, dtype=np.int32) for sequence in sequences]


def load(name: str):
    """The test's questions on a public data set, or a skip that says what is missing."""
    if not FILES[name].is_file():
        pytest.skip(f"{FILES[name]} is not on this machine")
    folder = str(FILES[name].parent)
    if name == "ml-100k":
        config = DataConfig(path=folder)
    else:
        config = DataConfig(name="files", path=folder, text_fields=("title",))
    dataset = load_dataset(config)
    return leave_one_out(dataset.histories), dataset.catalog.num_items


def test_popularity():
    train = histories([3, 1, 3], [1, 3, 0])  # 3: three times, 1: twice, 0: once, 2 and 4: never
    assert event_counts(train, 5).tolist() == [1, 2, 0, 3, 0]
    seen = rows([3], [], [0, 1, 2, 3])
    left_out = popularity(train, 5, seen, 3, exclude_history=True)
    assert left_out.tolist() == [[1, 0, 2], [3, 1, 0], [4, -1, -1]]
    assert popularity(train, 5, seen, 3, exclude_history=False).tolist() == [[3, 1, 0]] * 3


def test_own_items_come_latest_first_then_the_others_by_popularity():
    train = histories([3, 1, 3], [1, 3, 0])
    seen = rows([0, 4, 0, 2], [], [1, 1, 1], [0, 1, 2, 3, 4])
    want = [[2, 0, 4, 3], [3, 1, 0, 2], [1, 3, 0, 2], [4, 3, 2, 1]]
    assert own_items(train, 5, seen, 4).tolist() == want
    assert own_items(train, 5, seen, 6).tolist()[1] == [3, 1, 0, 2, 4, -1]


def test_co_visitation_prefers_close_items():
    train = histories([0, 1, 2], [0, 1, 3])
    # 1 stands beside 0 twice; 2 and 3 stand two steps off, once each: the lower row wins
    got = co_visitation(train, 5, rows([0]), 4, exclude_history=True)
    assert got.tolist() == [[1, 2, 3, -1]]


def test_co_visitation_never_ranks_what_never_stood_near():
    train = histories([0, 1, 0], [3, 4, 3])
    got = co_visitation(train, 6, rows([0, 1], [5], [3]), 2, exclude_history=True)
    assert got.tolist() == [[-1, -1]] * 2 + [[4, -1]]


def test_co_visitation_ranks_what_was_seen_where_that_is_allowed():
    train = histories([0, 1, 0], [3, 4, 3])
    # 1, the later item, votes with 1 and its neighbour 0 with 0.8; no item votes for itself
    got = co_visitation(train, 6, rows([0, 1], [5], [3]), 2, exclude_history=False)
    assert got.tolist() == [[0, 1], [-1, -1], [4, -1]]


def test_co_visitation_looks_five_steps_far():
    train = histories([0, 1, 2, 3, 4, 5, 6])
    got = co_visitation(train, 8, rows([0]), 7, exclude_history=True)
    assert got.tolist() == [[1, 2, 3, 4, 5, -1, -1]]  # nearer is heavier; 6 is six steps off


def test_co_visitation_trusts_recent_events():
    train = histories([0, 1], [2, 3])
    got = co_visitation(train, 4, rows([0, 2], [2, 0]), 1, exclude_history=True)
    assert got.tolist() == [[3], [1]]


def test_users_of_other_histories_are_no_neighbours():
    train = histories([0, 1], [2, 3])
    assert co_visitation(train, 4, rows([1]), 3, exclude_history=True).tolist() == [[0, -1, -1]]


@pytest.mark.parametrize("exclude_history", [True, False], ids=["left out", "allowed"])
def test_co_visitation_against_a_loop(exclude_history):
    _, events = synthetic(60, 63, 6, seed=0)
    split = leave_one_out(events)
    counts = np.zeros((60, 60))
    for user in range(events.num_users):
        history = split.train[user]
        for i, a in enumerate(history):
            for j in range(i + 1, min(i + 6, len(history))):
                if a != history[j]:
                    counts[a, history[j]] += (6 - (j - i)) / 5
                    counts[history[j], a] += (6 - (j - i)) / 5
    root = np.sqrt(np.bincount(split.train.rows, minlength=60) + baselines._SMOOTHING)
    weights = counts / np.outer(root, root)
    asked = split.test.histories
    got = co_visitation(split.train, 60, asked, 60, exclude_history=exclude_history)
    for user, history in enumerate(asked):
        scores = np.zeros(60)
        for back, row in enumerate(history[::-1][: baselines._RECENT]):
            scores += baselines._DECAY**back * weights[row]
        if exclude_history:
            scores[history] = 0
        ranked = got[user][got[user] >= 0]
        assert set(ranked) == set(np.flatnonzero(scores))
        # equal up to rounding: the loop adds in another order
        assert (np.diff(scores[ranked]) <= 1e-12).all()


@pytest.mark.parametrize("baseline", [popularity, co_visitation, ease])
def test_without_training_events(baseline):
    got = baseline(histories([]), 3, rows([1]), 2, exclude_history=True)
    assert got.shape == (1, 2)
    assert 1 not in got


@pytest.mark.parametrize(
    ("name", "recall"), [("ml-100k", 0.0859), ("beauty", 0.0115), ("office", 0.0012)]
)
def test_popularity_on_public_data(name, recall):
    split, num_items = load(name)
    rankings = popularity(split.train, num_items, split.test.histories, 20, exclude_history=True)
    assert round(ranking_metrics(rankings, split.test.targets)["recall@10"], 4) == recall


# Our definition's own figures, R@5 N@5 R@10 N@10, so that a change of it is seen. They are not the
# figures stated beside these files (.1198/.0793/.1930/.1028, .0553/.0406/.0749/.0469 and
# .0636/.0458/.0879/.0537): how those weigh their pairs is not stated, and no variant that we tried
# gave them on all three sets.
CO_VISITATION = {
    "ml-100k": (0.1432, 0.0943, 0.2227, 0.1198),
    "beauty": (0.0579, 0.0415, 0.0780, 0.0480),
    "office": (0.0638, 0.0462, 0.0873, 0.0536),
}


@pytest.mark.parametrize(("name", "want"), CO_VISITATION.items(), ids=CO_VISITATION)
def test_co_visitation_on_public_data(name, want):
    split, num_items = load(name)
    rankings = co_visitation(split.train, num_items, split.test.histories, 20, exclude_history=True)
    metrics = ranking_metrics(rankings, split.test.targets)
    got = [metrics[key] for key in ("recall@5", "ndcg@5", "recall@10", "ndcg@10")]
    assert tuple(round(value, 4) for value in got) == want


@pytest.mark.parametrize("exclude_history", [True, False], ids=["left out", "allowed"])
def test_every_term_of_the_evidence_ranks_and_so_does_their_sum(exclude_history):
    items, events = synthetic(150, 600, 10, seed=0)
    split = leave_one_out(events)
    rankings = evidence_rankings(
        split, items, EvidenceConfig(rank=32), 10, exclude_history=exclude_history
    )
    terms = {
        "neighbours",
        "text",
        "directed",
        "graph",
        "co_visitation",
        "transitions",
        "regression",
    }
    assert {"evidence", *(f"evidence_{name}" for name in terms)} <= set(rankings)
    ndcg = {
        n: ranking_metrics(r, split.test.targets, (10,))["ndcg@10"] for n, r in rankings.items()
    }
    assert ndcg["evidence"] > 0.9 * max(ndcg.values())
    if exclude_history:
        for ranked, seen in zip(rankings["evidence"], split.test.histories, strict=True):
            assert not set(ranked) & set(seen)


def test_ease_against_its_formula():
    _, events = synthetic(60, 63, 6, seed=0)
    split = leave_one_out(events)
    visits = np.zeros((events.num_users, 60))
    for user in range(events.num_users):
        visits[user, split.train[user]] = 1
    inverse = np.linalg.inv(visits.T @ visits + baselines._EASE_RIDGE * np.eye(60))
    weights = inverse / -np.diag(inverse)
    np.fill_diagonal(weights, 0)
    asked = [*split.test.histories, np.empty(0, dtype=np.int32)]
    got = ease(split.train, 60, asked, 63, exclude_history=True)
    for user, history in enumerate(asked):
        scores = weights[np.unique(history)].sum(0)
        ranked = got[user][got[user] >= 0]
        assert set(ranked) == set(range(60)) - set(history)
        assert (np.diff(scores[ranked]) <= 1e-6).all()  # equal up to rounding
    allowed = ease(split.train, 60, asked[:1], 60, exclude_history=False)
    assert sorted(allowed[0]) == list(range(60))


def test_events_before_the_test_are_those_its_histories_hold():
    split = leave_one_out(histories([0, 1, 2, 3], [4, 5, 6]))
    assert [split.before_test[user].tolist() for user in range(2)] == [[0, 1, 2], [4, 5]]
