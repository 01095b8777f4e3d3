"""Training-free baselines: what a recommender must beat to have learnt anything.

Every baseline ranks all items or all but those of the user's history, as it is told, and breaks
ties by the lower row.
"""

from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray

from store_engine.collaborative.co_visits import Counts, event_counts
from store_engine.collaborative.fit_evidence import fit_terms, updated
from store_engine.collaborative.neighbours import rank_neighbours, recent_events
from store_engine.config import EvidenceConfig
from store_engine.data.catalog import Catalog
from store_engine.data.histories import Histories
from store_engine.data.split import Split

# the constants of co-visitation; chosen by hand. They matter: other sensible weights and norms gave
# a Recall@10 of about .18 to .23 on ML-100k, so a result is only comparable by this definition
_SMOOTHING = 10.0  # added to an item's frequency, so that rare pairs do not rule
_RECENT = 20  # events of the history that are looked at
_DECAY = 0.8  # weight of an event against the one after it
_EASE_RIDGE = 250.0  # of the paper's grid, for small data
_USERS = 256  # whose scores are dense at once
_WINDOW = 5  # most steps between two events that count as a visit together


def popularity(
    train: Histories,
    num_items: int,
    histories: Sequence[NDArray[np.int32]],
    k: int,
    *,
    exclude_history: bool,
) -> NDArray[np.int64]:
    """Ranks items by their number of training events.

    Args:
        train: The events that may be counted.
        num_items: Size of the catalogue.
        histories: Per user the catalogue rows seen so far.
        k: Length of the rankings.
        exclude_history: Leave out the items that the user has seen.

    Returns:
        (num_users, k) catalogue rows, most popular first, -1 padded.
    """
    order = np.argsort(-event_counts(train, num_items), kind="stable")
    rankings = np.full((len(histories), k), -1, dtype=np.int64)
    for user, history in enumerate(histories):
        best = order[: k + len(history)] if exclude_history else order[:k]
        if exclude_history:
            best = best[~np.isin(best, history)][:k]
        rankings[user, : len(best)] = best
    return rankings


def own_items(
    train: Histories, num_items: int, histories: Sequence[NDArray[np.int32]], k: int
) -> NDArray[np.int64]:
    """Ranks the items of the user's history, latest first, then the others by popularity.

    Args:
        train: The events by which popularity is counted.
        num_items: Size of the catalogue.
        histories: Per user the catalogue rows seen so far, oldest first.
        k: Length of the rankings.

    Returns:
        (num_users, k) catalogue rows, -1 padded.
    """
    rankings = popularity(train, num_items, histories, k, exclude_history=True)
    for user, history in enumerate(histories):
        latest_first = history[::-1]
        _, places = np.unique(latest_first, return_index=True)
        own = latest_first[np.sort(places)]
        rankings[user] = np.concatenate([own, rankings[user]])[:k]
    return rankings


def co_visitation(
    train: Histories,
    num_items: int,
    histories: Sequence[NDArray[np.int32]],
    k: int,
    *,
    exclude_history: bool,
) -> NDArray[np.int64]:
    """Ranks items by how often they stand close to those of the history, per their popularity.

    Two events of one user that are d <= 5 steps apart count (6 - d) / 5 for their pair of
    different items, both ways; a pair's sum is divided by the root of the items' smoothed
    frequencies. The last events of a history vote for their neighbours, recent ones with more
    weight.

    This definition is ours. Baselines printed elsewhere under the name of co-visitation weigh
    pairs in ways of their own, and their figures differ from what this gives.

    Args:
        train: The events that may be counted.
        num_items: Size of the catalogue.
        histories: Per user the catalogue rows seen so far, oldest first.
        k: Length of the rankings.
        exclude_history: Leave out the items that the user has seen.

    Returns:
        (num_users, k) catalogue rows, best first, -1 padded: items never seen beside the history
        are not ranked.
    """
    settings = EvidenceConfig(window=_WINDOW, smoothing=_SMOOTHING)
    counts = Counts(train, num_items, settings)
    matrix = counts.normalised(counts.symmetric)
    events = recent_events(histories, num_items, _DECAY, _RECENT)
    return rank_neighbours(matrix, events, histories, k, exclude_history)


def ease(
    train: Histories,
    num_items: int,
    histories: Sequence[NDArray[np.int32]],
    k: int,
    *,
    exclude_history: bool,
) -> NDArray[np.int64]:
    """Ranks items by EASE, a linear autoencoder of the sets of items that users visited.

    Source: Steck, WWW 2019, https://arxiv.org/abs/1905.03375. Order does not count, as in the
    paper. Holds two dense float32 matrices of (num_items, num_items): 3.2 GB at 20,000 items.

    Args:
        train: The events that may be counted.
        num_items: Size of the catalogue.
        histories: Per user the catalogue rows seen so far.
        k: Length of the rankings.
        exclude_history: Leave out the items that the user has seen.

    Returns:
        (num_users, k) catalogue rows, best first, -1 padded.
    """
    visits = _visits([train[user] for user in range(train.num_users)], num_items)
    gram = torch.from_numpy((visits.T @ visits).toarray())
    gram.diagonal().add_(_EASE_RIDGE)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram, out=gram)).numpy()
    weights = inverse / -inverse.diagonal()
    np.fill_diagonal(weights, 0)
    rankings = np.full((len(histories), k), -1, dtype=np.int64)
    places = min(k, num_items)
    for begin in range(0, len(histories), _USERS):
        block = histories[begin : begin + _USERS]
        scores = _visits(block, num_items) @ weights
        if exclude_history:
            for of_user, history in zip(scores, block, strict=True):
                of_user[history] = -np.inf
        best = np.argsort(-scores, axis=1, kind="stable")[:, :places]
        is_ranked = np.take_along_axis(scores, best, 1) > -np.inf
        rankings[begin : begin + _USERS, :places] = np.where(is_ranked, best, -1)
    return rankings


def _visits(histories: Sequence[NDArray[np.int32]], num_items: int) -> sp.csr_array:
    """Which items each history holds: (num_users, num_items), 1 or 0."""
    visits = recent_events(histories, num_items, 1.0, max(map(len, histories), default=1))
    visits.sum_duplicates()
    visits.data[:] = 1
    return visits.astype(np.float32)


def evidence_rankings(
    split: Split, catalog: Catalog, settings: EvidenceConfig, k: int, *, exclude_history: bool
) -> dict[str, NDArray[np.int64]]:
    """Ranks the test's users by every term of item-item evidence alone, and by their sum.

    Only training events count where nothing else is said; weights and decays are chosen on the
    validation examples.

    Args:
        split: Training events, validation and test examples.
        catalog: Items and their text.
        settings: Of the evidence.
        k: Length of the rankings.
        exclude_history: Leave out the items that the user has seen.

    Returns:
        `evidence`; `evidence_updated`, which also counts the validation events, by the same
        weights; and `evidence_TERM` per term -> (num_users, k) catalogue rows, best first, -1
        padded.
    """
    fitted = fit_terms(split.train, split.valid, catalog, settings, exclude_history=exclude_history)
    parts = {f"evidence_{name}": fitted.alone(name) for name in fitted.terms}
    evidence = fitted.evidence(settings.neighbours)
    newer = updated(evidence, split.before_test, catalog, settings)
    everything = {"evidence": evidence, "evidence_updated": newer, **parts}
    return {
        name: one.top(split.test.histories, k, exclude_history=exclude_history)
        for name, one in everything.items()
    }
