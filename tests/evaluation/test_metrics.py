import math

import numpy as np
import pytest

from store_engine.evaluation.metrics import (
    CUTOFFS,
    auc,
    coverage,
    cutoffs_up_to,
    gauc,
    log_loss,
    long_tail_share,
    metrics_by_frequency,
    ranking_metrics,
    standard_errors,
)

RANKINGS = np.array([[4, 2, 0, 1], [3, 1, -1, -1], [0, 1, 2, 3]])


def test_ranking_metrics_by_hand():
    metrics = ranking_metrics(RANKINGS, np.array([2, 3, 4]), cutoffs=(1, 2, 4))
    want = {
        "recall@1": 1 / 3,
        "recall@2": 2 / 3,
        "recall@4": 2 / 3,
        "ndcg@1": 1 / 3,
        "ndcg@2": (1 + 1 / math.log2(3)) / 3,
        "ndcg@4": (1 + 1 / math.log2(3)) / 3,
        "mrr": (1 / 2 + 1) / 3,
    }
    assert metrics == pytest.approx(want)
    assert all(type(value) is float for value in metrics.values())


def test_ranking_metrics_against_a_loop():
    rng = np.random.default_rng(0)
    rankings = np.array([rng.permutation(40)[:20] for _ in range(63)])
    targets = rng.integers(40, size=63)
    recall, ndcg, mrr = 0.0, 0.0, 0.0
    for ranking, target in zip(rankings.tolist(), targets.tolist(), strict=True):
        if target in ranking:
            rank = ranking.index(target) + 1
            mrr += 1 / rank / 63
            recall += (rank <= 10) / 63
            ndcg += (rank <= 10) / math.log2(rank + 1) / 63
    metrics = ranking_metrics(rankings, targets)
    got = [metrics[name] for name in ("recall@10", "ndcg@10", "mrr")]
    assert got == pytest.approx([recall, ndcg, mrr])
    assert list(metrics)[:4] == ["recall@1", "recall@5", "recall@10", "recall@20"]


def test_standard_errors_by_hand():
    errors = standard_errors(RANKINGS, np.array([2, 3, 4]), cutoffs=(1, 2))
    share = math.sqrt((2 / 3) * (1 / 3) * 3 / 2 / 3)  # of one hit, and of two hits, in three users
    assert errors["recall@1"] == errors["recall@2"] == pytest.approx(share)
    values = [1 / 2, 1, 0]
    assert errors["mrr"] == pytest.approx(np.std(values, ddof=1) / math.sqrt(3))
    assert errors.keys() == ranking_metrics(RANKINGS, np.array([2, 3, 4]), cutoffs=(1, 2)).keys()


def test_a_single_user_has_no_standard_error():
    assert standard_errors(RANKINGS[:1], np.array([2]), cutoffs=(1, 2)) == {}


@pytest.mark.parametrize(
    ("max_k", "want"),
    [(1, (1,)), (3, (1, 3)), (10, (1, 5, 10)), (20, CUTOFFS), (21, (*CUTOFFS, 21))],
)
def test_cutoffs_go_up_to_the_rankings_length(max_k, want):
    assert cutoffs_up_to(max_k) == want


@pytest.mark.parametrize(
    ("rankings", "targets", "cutoffs", "message"),
    [
        (RANKINGS, np.zeros(2, int), (1,), "rankings must be"),
        (RANKINGS[0], np.zeros(4, int), (1,), "rankings must be"),
        (RANKINGS[:0], np.zeros(0, int), (1,), "at least one user"),
        (RANKINGS, np.zeros(3, int), (1, 5), r"cutoffs must be in \[1, 4\]"),
        (RANKINGS, np.zeros(3, int), (0,), r"cutoffs must be in \[1, 4\]"),
        (RANKINGS, np.array([0, 1, -1]), (1,), "targets must be catalogue rows"),
    ],
    ids=["users", "ndim", "nobody", "cutoff beyond k", "cutoff 0", "padding as target"],
)
def test_ranking_metrics_rejects(rankings, targets, cutoffs, message):
    with pytest.raises(ValueError, match=message):
        ranking_metrics(rankings, targets, cutoffs)


def test_frequency_buckets():
    frequency = np.array([0, 1, 5, 6, 20, 21, 100, 101, 5000])
    targets = np.arange(9)
    buckets = metrics_by_frequency(targets[:, None], targets, frequency, cutoffs=(1,))
    sizes = {name: bucket["num_users"] for name, bucket in buckets.items()}
    assert sizes == {"0": 1, "1-5": 2, "6-20": 2, "21-100": 2, "101+": 2}
    assert all(bucket["recall@1"] == 1 for bucket in buckets.values())


def test_frequency_buckets_average_their_users():
    rankings = np.array([[0], [0], [1], [1]])
    targets = np.array([0, 1, 1, 1])
    buckets = metrics_by_frequency(rankings, targets, np.array([3, 30]), cutoffs=(1,))
    assert buckets["1-5"]["recall@1"] == 1
    assert buckets["21-100"]["recall@1"] == pytest.approx(2 / 3)
    assert buckets["0"] == {"num_users": 0}


def test_target_outside_the_catalogue():
    with pytest.raises(ValueError, match="targets must be below 4, got 4"):
        metrics_by_frequency(RANKINGS, np.array([0, 1, 4]), np.zeros(4, int), cutoffs=(1,))


def test_coverage_and_long_tail():
    assert coverage(RANKINGS, num_items=10) == 0.5
    assert coverage(RANKINGS, num_items=10, k=1) == pytest.approx(0.3)
    # the head, 40 % of five items, is rows 1 and 0 (a tie with row 4, the lower row wins)
    frequency = np.array([7, 9, 0, 2, 7])
    assert long_tail_share(RANKINGS, frequency, head=0.4) == pytest.approx(5 / 10)
    assert long_tail_share(np.full((2, 3), -1), frequency) == 0


def test_auc_by_hand():
    scores, labels = np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1])
    assert auc(scores, labels) == pytest.approx(0.75)
    assert auc(np.zeros(4), labels) == pytest.approx(0.5)
    assert auc(-scores, labels) == pytest.approx(0.25)


def test_auc_and_gauc_against_pairs():
    rng = np.random.default_rng(0)
    scores, labels = rng.integers(10, size=400) / 10, rng.integers(2, size=400)
    groups = rng.integers(30, size=400) * 7 - 3

    def pairs(chosen):
        wins = [
            (a > b) + (a == b) / 2
            for a in scores[chosen & (labels == 1)]
            for b in scores[chosen & (labels == 0)]
        ]
        return np.mean(wins) if wins else None

    assert auc(scores, labels) == pytest.approx(pairs(np.ones(400, bool)))
    members = [groups == g for g in np.unique(groups)]
    valid = [(pairs(m), m.sum()) for m in members if pairs(m) is not None]
    want = sum(a * n for a, n in valid) / sum(n for _, n in valid)
    assert gauc(scores, labels, groups) == pytest.approx(want)


def test_gauc_leaves_out_groups_of_one_class():
    scores, labels = np.array([0.9, 0.1, 0.5, 0.6]), np.array([1, 0, 1, 1])
    assert gauc(scores, labels, np.array([0, 0, 1, 1])) == 1
    assert math.isnan(gauc(scores, labels, np.array([0, 1, 2, 2])))


def test_log_loss():
    p, labels = np.array([0.9, 0.2, 1.0]), np.array([1, 0, 1])
    assert log_loss(p, labels) == pytest.approx(-(math.log(0.9) + math.log(0.8)) / 3, abs=1e-6)
    assert math.isfinite(log_loss(np.array([0.0], dtype=np.float32), np.array([1])))


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        (np.zeros(2), np.zeros(3, int), r"must be \(num_samples,\)"),
        (np.zeros(0), np.zeros(0, int), "at least one"),
        (np.array([0.0, np.nan]), np.array([0, 1]), "a score is NaN"),
        (np.zeros(2), np.array([0, 2]), "labels must be 0 or 1"),
        (np.zeros(2), np.array([1, 1]), "one class"),
    ],
    ids=["shape", "empty", "nan", "label 2", "one class"],
)
def test_auc_rejects(scores, labels, message):
    with pytest.raises(ValueError, match=message):
        auc(scores, labels)


def test_other_score_errors():
    with pytest.raises(ValueError, match=r"probabilities must be in \[0, 1\]"):
        log_loss(np.array([1.5]), np.array([1]))
    with pytest.raises(ValueError, match="groups must be"):
        gauc(np.zeros(2), np.array([0, 1]), np.zeros(3, int))
