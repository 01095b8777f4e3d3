"""Rankings of all items: by a score, or made elsewhere; and what they are worth."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from store_engine.data.split import Examples
from store_engine.evaluation.metrics import ranking_metrics, standard_errors
from store_engine.evaluation.protocols import RULES, CandidateRule
from store_engine.files.npz import ArrayForm, read_npz
from store_engine.files.regular import parse_errors

MAX_K = 20
_USERS_PER_PASS = 256  # of scoring

# histories of catalogue rows -> (num_histories, num_items)
Score = Callable[[Sequence[NDArray[np.int32]]], NDArray[np.float32]]


def rank(
    score: Score,
    histories: Sequence[NDArray[np.int32]],
    k: int,
    *,
    exclude_history: bool,
) -> NDArray[np.int64]:
    """Ranks all items by a score, or all but those of the history.

    Args:
        score: Gives the (num_histories, num_items) scores of some histories.
        histories: Per user the catalogue rows seen so far, oldest first.
        k: Length of the rankings.
        exclude_history: Leave out the items that the user has seen.

    Returns:
        (num_users, k) catalogue rows, best first, -1 where fewer than k items compete.
    """
    rankings = np.empty((len(histories), k), dtype=np.int64)
    by_length = sorted(range(len(histories)), key=lambda user: len(histories[user]))
    for begin in range(0, len(histories), _USERS_PER_PASS):
        users = by_length[begin : begin + _USERS_PER_PASS]
        scores = torch.from_numpy(score([histories[user] for user in users]))
        if exclude_history:
            for place, user in enumerate(users):
                scores[place, histories[user]] = -torch.inf
        best = scores.topk(min(k, scores.shape[1]))
        rows = best.indices.masked_fill(best.values == -torch.inf, -1)
        rankings[users] = F.pad(rows, (0, k - rows.shape[1]), value=-1)
    return rankings


def validation_ndcg(score: Score, valid: Examples) -> float:
    """NDCG@10 on validation users, seen items left out."""
    rankings = rank(score, valid.histories, 10, exclude_history=True)
    return ranking_metrics(rankings, valid.targets, (10,))["ndcg@10"]


def result_rows(
    rank_by: Callable[[CandidateRule], NDArray[np.int64]], targets: NDArray[np.int32]
) -> list[dict[str, Any]]:
    """Measures rankings under both rules."""
    found = [(rule, rank_by(rule)) for rule in RULES]
    cutoffs = (1, 5, 10, MAX_K)
    return [
        {
            "rule": rule.name,
            "metrics": ranking_metrics(rankings, targets, cutoffs),
            "standard_errors": standard_errors(rankings, targets, cutoffs),
        }
        for rule, rankings in found
    ]


def score_rows(score: Score, examples: Examples) -> list[dict[str, Any]]:
    """Measures the rankings of a score of all items under both rules."""

    def rank_by(rule: CandidateRule) -> NDArray[np.int64]:
        return rank(score, examples.histories, MAX_K, exclude_history=rule.exclude_history)

    return result_rows(rank_by, examples.targets)


class Ranked(NamedTuple):
    """Rankings made elsewhere, of some test users."""

    users: NDArray[np.int64]  # (num_ranked,) places among the test users
    rankings: NDArray[np.int64]  # (num_ranked, k) catalogue rows, best first, -1 padded


def read_rankings(path: Path, examples: Examples, num_items: int) -> Ranked:
    """Reads what another library ranked, and checks that it had our split.

    Raises:
        InputError: The file is missing, damaged or not of this form; or users, targets or items
            are not those of the test, or a ranking names an item twice.
    """
    forms = {
        "users": ArrayForm("i", 1),
        "rankings": ArrayForm("i", 2),
        "targets": ArrayForm("i", 1),
    }
    got = read_npz(path, forms, "a rankings file")
    users, rankings = got["users"], got["rankings"]
    with parse_errors(path, "a rankings file"):
        if not len(users) == len(rankings) == len(got["targets"]) == len(np.unique(users)):
            raise ValueError("users must be distinct, with a ranking and a target each")
        if len(users) and not 0 <= users.min() <= users.max() < len(examples.targets):
            raise ValueError(f"users must be below {len(examples.targets)}")
        if (examples.targets[users] != got["targets"]).any():
            raise ValueError("the targets are not those of the test")
        if rankings.min() < -1 or rankings.max() >= num_items:
            raise ValueError(f"rankings must hold catalogue rows below {num_items}, or -1")
        ordered = np.sort(rankings, axis=1)
        if ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any():
            raise ValueError("a ranking names an item twice")
    return Ranked(users, rankings)


def without_items(
    rankings: NDArray[np.int64], items: Sequence[NDArray[Any]], k: int
) -> NDArray[np.int64]:
    """Takes each user's items out of the ranking and keeps the first k of the rest, -1 padded."""
    kept = np.full((len(rankings), k), -1, dtype=np.int64)
    for user, (ranking, out) in enumerate(zip(rankings, items, strict=True)):
        rows = ranking[~np.isin(ranking, out) & (ranking >= 0)][:k]
        kept[user, : len(rows)] = rows
    return kept
