"""How good rankings and scores are, measured on items.

A ranking is a row of catalogue rows, best first, padded with -1; a hit is the target's own row,
never an equal SID. Every user counts the same.
"""

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.integer]
FloatArray = NDArray[np.floating]

CUTOFFS = (1, 5, 10, 20)
# name -> lowest and highest number of training events of the target
FREQUENCY_BUCKETS = {
    "0": (0, 0),
    "1-5": (1, 5),
    "6-20": (6, 20),
    "21-100": (21, 100),
    "101+": (101, np.iinfo(np.int64).max),
}


def cutoffs_up_to(max_k: int) -> tuple[int, ...]:
    """Lists the usual values of k that rankings of length `max_k` allow, and `max_k` itself."""
    return (*(k for k in CUTOFFS if k < max_k), max_k)


def per_user_metrics(
    rankings: IntArray, targets: IntArray, cutoffs: tuple[int, ...]
) -> dict[str, NDArray[np.float64]]:
    """Computes the metrics of `ranking_metrics` for each user: (num_users,) each.

    Raises:
        ValueError: The shapes do not fit, or a cutoff is beyond the rankings.
    """
    ranks, max_k = _ranks(rankings, targets), rankings.shape[1]
    if max(cutoffs) > max_k or min(cutoffs) < 1:
        raise ValueError(f"cutoffs must be in [1, {max_k}], got {cutoffs}")
    gains = 1.0 / np.log2(ranks + 2.0)
    values = {f"recall@{k}": (ranks < k).astype(np.float64) for k in cutoffs}
    values |= {f"ndcg@{k}": np.where(ranks < k, gains, 0.0) for k in cutoffs}
    return values | {"mrr": np.where(ranks < max_k, 1.0 / (ranks + 1.0), 0.0)}


def ranking_metrics(
    rankings: IntArray, targets: IntArray, cutoffs: tuple[int, ...] = CUTOFFS
) -> dict[str, float]:
    """Computes Recall@k, NDCG@k and MRR with one target per user.

    Args:
        rankings: (num_users, max_k) catalogue rows, best first, -1 padded.
        targets: (num_users,) catalogue rows.
        cutoffs: The values of k, each at most max_k.

    Returns:
        `recall@k` and `ndcg@k` for each cutoff, and `mrr`: the mean of 1 / rank over the whole
        ranking, 0 where the target is not in it.

    Raises:
        ValueError: The shapes do not fit, there is no user, or a cutoff is beyond max_k.
    """
    return {
        name: float(v.mean()) for name, v in per_user_metrics(rankings, targets, cutoffs).items()
    }


def standard_errors(
    rankings: IntArray, targets: IntArray, cutoffs: tuple[int, ...] = CUTOFFS
) -> dict[str, float]:
    """Computes the standard errors of `ranking_metrics`, with the users as the sample.

    Args:
        rankings: (num_users, max_k) catalogue rows, best first, -1 padded.
        targets: (num_users,) catalogue rows.
        cutoffs: The values of k, each at most max_k.

    Returns:
        The names of `ranking_metrics` -> sample deviation / sqrt(num_users); nothing for a single
        user, who has no deviation.

    Raises:
        ValueError: As `ranking_metrics`.
    """
    per_user = per_user_metrics(rankings, targets, cutoffs)
    if len(targets) < 2:
        return {}
    root = len(targets) ** 0.5
    return {name: float(values.std(ddof=1) / root) for name, values in per_user.items()}


def metrics_by_frequency(
    rankings: IntArray,
    targets: IntArray,
    train_frequency: IntArray,
    cutoffs: tuple[int, ...] = CUTOFFS,
) -> dict[str, dict[str, float]]:
    """Computes `ranking_metrics` for users grouped by how frequent their target was in training.

    Args:
        rankings: (num_users, max_k) catalogue rows, best first, -1 padded.
        targets: (num_users,) catalogue rows.
        train_frequency: (num_items,) training events per catalogue row.
        cutoffs: The values of k.

    Returns:
        Bucket -> its metrics and `num_users`; a bucket without users has only `num_users`.

    Raises:
        ValueError: As `ranking_metrics`, or a target is outside the catalogue.
    """
    _check_rankings(rankings, targets)
    if targets.max() >= len(train_frequency):
        raise ValueError(f"targets must be below {len(train_frequency)}, got {targets.max()}")
    frequency = train_frequency[targets]
    buckets: dict[str, dict[str, float]] = {}
    for name, (low, high) in FREQUENCY_BUCKETS.items():
        members = (frequency >= low) & (frequency <= high)
        buckets[name] = {"num_users": float(members.sum())}
        if members.any():
            buckets[name] |= ranking_metrics(rankings[members], targets[members], cutoffs)
    return buckets


def coverage(rankings: IntArray, num_items: int, k: int = 10) -> float:
    """Computes the share of the catalogue that is recommended to someone in the first `k`."""
    shown = np.unique(rankings[:, :k])
    return float((shown >= 0).sum() / num_items)


def long_tail_share(
    rankings: IntArray, train_frequency: IntArray, k: int = 10, head: float = 0.2
) -> float:
    """Computes the share of the first `k` places that go to items outside the head.

    Args:
        rankings: (num_users, max_k) catalogue rows, best first, -1 padded.
        train_frequency: (num_items,) training events per catalogue row.
        k: Places looked at.
        head: The head is this share of the catalogue, the most frequent items; ties go to the
            lower row.

    Returns:
        A number in [0, 1]; 0 if nothing is recommended.
    """
    num_head = round(head * len(train_frequency))
    is_tail = np.ones(len(train_frequency), dtype=np.bool_)
    is_tail[np.argsort(-train_frequency.astype(np.int64), kind="stable")[:num_head]] = False
    shown = rankings[:, :k]
    shown = shown[shown >= 0]
    return float(is_tail[shown].mean()) if len(shown) else 0.0


def auc(scores: FloatArray, labels: IntArray) -> float:
    """Computes the chance that a positive scores above a negative; equal scores count half.

    Args:
        scores: (num_samples,) higher = more likely.
        labels: (num_samples,) 0 or 1, both present.

    Raises:
        ValueError: The shapes do not fit, a score is NaN, or a class is missing.
    """
    _check_scores(scores, labels)
    value = gauc(scores, labels, np.zeros(len(labels), dtype=np.int64))
    if np.isnan(value):
        raise ValueError("auc needs positives and negatives, got one class")
    return value


def gauc(scores: FloatArray, labels: IntArray, groups: IntArray) -> float:
    """Computes AUC within each group (a user, an impression), weighted by the samples of each.

    Args:
        scores: (num_samples,) higher = more likely.
        labels: (num_samples,) 0 or 1.
        groups: (num_samples,) any integer per group.

    Returns:
        A number in [0, 1] over the groups that hold both classes; NaN if none does.

    Raises:
        ValueError: The shapes do not fit or a score is NaN.
    """
    _check_scores(scores, labels)
    if groups.shape != labels.shape:
        raise ValueError(f"groups must be {labels.shape}, got {groups.shape}")
    _, group = np.unique(groups, return_inverse=True)
    order = np.lexsort((scores, group))
    group, scores, labels = group[order], scores[order], labels[order]
    # equal scores of one group share their mean rank: the Mann-Whitney U statistic
    is_new = np.r_[True, (group[1:] != group[:-1]) | (scores[1:] != scores[:-1])]
    begins = np.flatnonzero(is_new)
    ends = np.r_[begins[1:], len(scores)]
    ranks = ((begins + ends - 1) / 2.0)[np.cumsum(is_new) - 1]  # 0-based, over all groups
    size = np.bincount(group)
    positives = np.bincount(group, weights=labels)
    negatives = size - positives
    # ranks count from where the group begins
    rank_sum = np.bincount(group, weights=labels * ranks) - positives * (np.cumsum(size) - size)
    wins = rank_sum - positives * (positives - 1) / 2.0
    pairs = positives * negatives
    valid = pairs > 0
    if not valid.any():
        return float("nan")
    return float(np.average(wins[valid] / pairs[valid], weights=size[valid]))


def log_loss(probabilities: FloatArray, labels: IntArray) -> float:
    """Computes the mean binary cross-entropy, in nats.

    Args:
        probabilities: (num_samples,) of label 1, in [0, 1]; moved into [1e-7, 1 - 1e-7].
        labels: (num_samples,) 0 or 1.

    Raises:
        ValueError: The shapes do not fit or a probability is outside [0, 1].
    """
    _check_scores(probabilities, labels)
    if probabilities.min() < 0 or probabilities.max() > 1:
        raise ValueError("probabilities must be in [0, 1]")
    p = np.clip(probabilities.astype(np.float64), 1e-7, 1 - 1e-7)
    return float(-np.where(labels == 1, np.log(p), np.log1p(-p)).mean())


def _ranks(rankings: IntArray, targets: IntArray) -> NDArray[np.int64]:
    """(num_users,) 0-based place of the target, max_k where it is not in the ranking."""
    _check_rankings(rankings, targets)
    hits = rankings == targets[:, None]
    return np.where(hits.any(1), hits.argmax(1), rankings.shape[1])


def _check_rankings(rankings: IntArray, targets: IntArray) -> None:
    if rankings.ndim != 2 or targets.shape != rankings.shape[:1] or not rankings.size:
        raise ValueError(
            f"rankings must be (num_users, max_k) and targets (num_users,), at least one user, "
            f"got {rankings.shape} and {targets.shape}"
        )
    if targets.min() < 0:
        raise ValueError(f"targets must be catalogue rows, got {targets.min()}")


def _check_scores(scores: FloatArray, labels: IntArray) -> None:
    if scores.ndim != 1 or scores.shape != labels.shape or not len(scores):
        raise ValueError(
            f"scores and labels must be (num_samples,), at least one, "
            f"got {scores.shape} and {labels.shape}"
        )
    if np.isnan(scores).any():
        raise ValueError("a score is NaN")
    if not np.isin(labels, (0, 1)).all():
        raise ValueError("labels must be 0 or 1")
