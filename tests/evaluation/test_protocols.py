"""Which items compete: one rule for the model and every baseline."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from store_engine.data.histories import Histories
from store_engine.data.split import Examples, leave_one_out
from store_engine.data.synthetic import synthetic
from store_engine.evaluation.evaluate_run import rank_all
from store_engine.evaluation.protocols import (
    RULES,
    SEEN_ALLOWED,
    SEEN_LEFT_OUT,
    baseline_rankings,
    measure,
    primary_rule,
    share_of_targets_seen,
)

NUM_ITEMS = 20


def histories(sequences):
    offsets = np.cumsum([0, *map(len, sequences)])
    rows = np.concatenate(sequences).astype(np.int32)
    return Histories(tuple(f"u{i}" for i in range(len(sequences))), rows, offsets)


def rebuying():
    """80 users; user u alternates between the items u and u + 1 (modulo 20), eight events each."""
    return leave_one_out(
        histories([[(user + step % 2) % NUM_ITEMS for step in range(8)] for user in range(80)])
    )


# The target b = u + 1 was bought before the last event, a = u. All items are equally popular, so
# popularity gives the rows 0 to 9, half of the targets. All pairs of neighbours are equally strong,
# so co-visitation gives a - 1 and b the votes of a, then a and b + 1 those of b: b comes second,
# but first for a = 0 and a = 19, where a - 1 is the higher row. Own items are a, then b.
REBUYING = {
    "popularity": {"recall@1": 1 / 20, "recall@5": 5 / 20, "recall@10": 10 / 20, "recall@20": 1.0},
    "co_visitation": {
        "recall@1": 0.1,
        "recall@5": 1.0,
        "ndcg@5": 0.1 + 0.9 / math.log2(3),
        "mrr": 0.1 + 0.9 / 2,
    },
    "co_visitation_updated": {"recall@1": 0.1, "recall@5": 1.0},  # one event more changes no order
    "own_items": {"recall@1": 0.0, "recall@5": 1.0, "ndcg@10": 1 / math.log2(3), "mrr": 0.5},
}


def test_where_users_buy_again_the_baselines_may_repeat_exactly_where_the_model_may():
    split = rebuying()
    assert share_of_targets_seen(split.test) == 1.0

    def latest_item(rule):  # a recommender that repeats where it may
        rankings = np.full((80, 20), -1)
        if not rule.exclude_history:
            rankings[:, 0] = split.test.targets
        return rankings

    measured = measure(latest_item, split, NUM_ITEMS, 20)
    allowed, left_out = measured["seen_allowed"], measured["seen_left_out"]
    assert allowed["metrics"]["recall@1"] == 1.0
    assert allowed["baselines"].keys() == REBUYING.keys()
    for name, want in REBUYING.items():
        got = allowed["baselines"][name]
        assert {key: got[key] for key in want} == pytest.approx(want), name
    # every target was seen, so nobody can hit one: not the model, and no baseline
    assert left_out["baselines"].keys() == REBUYING.keys() - {"own_items"}
    for values in (left_out["metrics"], *left_out["baselines"].values()):
        assert values["recall@20"] == values["mrr"] == 0.0


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_nobody_ranks_what_the_rule_leaves_out(rule):
    split = rebuying()
    rankings = baseline_rankings(split, NUM_ITEMS, 20, rule)
    for name, ranking in rankings.items():
        seen = [np.isin(h, r).any() for h, r in zip(split.test.histories, ranking, strict=True)]
        assert all(seen) if not rule.exclude_history else not any(seen), name


@given(
    sequences=st.lists(st.lists(st.integers(0, 7), min_size=3, max_size=9), min_size=1, max_size=6),
    k=st.integers(1, 12),
    rule=st.sampled_from(RULES),
)
def test_a_baseline_ranks_items_that_compete_each_at_most_once(sequences, k, rule):
    split = leave_one_out(histories(sequences))
    for name, rankings in baseline_rankings(split, 8, k, rule).items():
        assert rankings.shape == (len(sequences), k)
        for ranking, history in zip(rankings.tolist(), split.test.histories, strict=True):
            ranked = [row for row in ranking if row >= 0]
            assert ranking == ranked + [-1] * (k - len(ranked))  # padding comes last
            assert len(set(ranked)) == len(ranked)
            assert set(ranked) <= set(range(8))
            competing = set(range(8)) - (set(history.tolist()) if rule.exclude_history else set())
            assert set(ranked) <= competing
            if not name.startswith("co_visitation"):  # the others rank every item
                assert len(ranked) == min(k, len(competing))


@pytest.mark.parametrize("exact", [False, True], ids=["beam", "exact"])
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_the_model_ranks_exactly_what_competes(rule, exact, make_engine):
    """The best items of the whole catalogue by score, with those of the history left out or not."""
    engine = make_engine(num_items=60, beam_width=60)
    asked = [np.array(h, dtype=np.int32) for h in ([3, 1, 4, 1, 5, 9], [2], [7, 1, 8, 2, 8, 1])]
    scores = engine.score_rows(asked)
    if rule.exclude_history:
        for user, history in enumerate(asked):
            scores[user, history] = -np.inf
    examples = Examples(asked, np.zeros(3, dtype=np.int32))
    got = rank_all(engine, examples, 10, exact, exclude_history=rule.exclude_history)
    found = np.take_along_axis(scores, got, axis=1)
    np.testing.assert_allclose(found, np.sort(scores, axis=1)[:, :-11:-1], atol=1e-5)


def test_missing_items_are_places_for_which_too_few_items_compete():
    split = leave_one_out(histories([[0, 1, 2, 3], [0, 0, 0, 0]]))  # of four items

    def all_that_compete(rule):
        rankings = np.full((2, 3), -1)
        for user, history in enumerate(split.test.histories):
            rows = np.setdiff1d(np.arange(4), history if rule.exclude_history else [])[:3]
            rankings[user, : len(rows)] = rows
        return rankings

    measured = measure(all_that_compete, split, 4, 3)
    assert measured["seen_left_out"]["missing_items"] == 2  # one item is left, and three
    assert measured["seen_allowed"]["missing_items"] == 0
    assert {m["invalid_items"] for m in measured.values()} == {0}


@pytest.mark.parametrize(
    ("num_repeats", "is_there"), [(0, False), (1, False), (2, True), (200, True)]
)
def test_own_items_are_a_baseline_where_one_target_of_a_hundred_was_seen(num_repeats, is_there):
    repeats, others = [[0, 1, 2, 0]] * num_repeats, [[0, 1, 2, 3]] * (200 - num_repeats)
    split = leave_one_out(histories(repeats + others))
    assert share_of_targets_seen(split.test) == num_repeats / 200
    assert ("own_items" in baseline_rankings(split, 4, 4, SEEN_ALLOWED)) == is_there
    assert "own_items" not in baseline_rankings(split, 4, 4, SEEN_LEFT_OUT)


def test_the_primary_rule_is_the_runs():
    assert primary_rule(exclude_history=True) is SEEN_LEFT_OUT
    assert primary_rule(exclude_history=False) is SEEN_ALLOWED


def test_the_baselines_never_see_the_targets():
    _, events = synthetic(60, 63, 6, seed=0)
    changed = events.rows.copy()
    changed[events.offsets[1:] - 1] = 0
    others = Histories(events.user_ids, changed, events.offsets)
    for rule in RULES:
        first, second = (
            baseline_rankings(leave_one_out(h), 60, 10, rule) for h in (events, others)
        )
        for name in ("popularity", "co_visitation"):
            np.testing.assert_array_equal(first[name], second[name])
