"""How well new items are found, among themselves and in the full catalogue, and at what price."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.quality.cold_split import ColdExamples
from store_engine.collaborative.co_visits import event_counts
from store_engine.collaborative.neighbours import recent_events
from store_engine.collaborative.spaces import text_space
from store_engine.data.catalog import Catalog
from store_engine.data.split import Examples, Split
from store_engine.decoding.engine import Engine
from store_engine.evaluation.evaluate_run import rank_all
from store_engine.evaluation.metrics import (
    coverage,
    long_tail_share,
    metrics_by_frequency,
    ranking_metrics,
)

K = 10
_CUTOFFS = (1, K)
_SET = "cold"  # the engine's name of the new items
_TEXT_DIM, _DECAY, _RECENT = 128, 0.7, 5  # of nearest neighbours by text

Rankings = NDArray[np.int64]


def rows_of(examples: ColdExamples, item_ids: Sequence[str]) -> Examples:
    """Names the items of examples by their catalogue rows."""
    row = {item: r for r, item in enumerate(item_ids)}
    histories = [np.array([row[i] for i in h], dtype=np.int32) for h in examples.histories]
    return Examples(histories, np.array([row[i] for i in examples.targets], dtype=np.int32))


def text_neighbours(
    catalog: Catalog, histories: Sequence[NDArray[np.int32]]
) -> NDArray[np.float32]:
    """Scores items by their cosine to the decayed last items, in TF-IDF and SVD.

    Args:
        catalog: The full catalogue.
        histories: Catalogue rows of each user, oldest first.

    Returns:
        (num_users, num_items).
    """
    space = text_space(catalog, _TEXT_DIM)
    events = recent_events(histories, catalog.num_items, _DECAY, _RECENT)
    scores: NDArray[np.float32] = ((events @ space) @ space.T).astype(np.float32)
    return scores


def top_rows(
    scores: NDArray[np.float32],
    histories: Sequence[NDArray[np.int32]],
    among: NDArray[np.int64] | None = None,
) -> Rankings:
    """Ranks items by given scores, those of the history left out: (num_users, 10) rows.

    Args:
        scores: (num_users, num_items), not changed.
        histories: Catalogue rows of each user.
        among: The items that compete; None: all.
    """
    allowed = np.full(scores.shape, among is not None)
    if among is not None:
        allowed[:, among] = False
    hidden = np.where(allowed, -np.inf, scores)
    for user, history in enumerate(histories):
        hidden[user, history] = -np.inf
    best = np.argsort(-hidden, axis=1, kind="stable")[:, :K]
    found: Rankings = np.where(np.take_along_axis(hidden, best, 1) > -np.inf, best, -1)
    return found


def recall(rankings: Rankings, targets: NDArray[np.int32]) -> dict[str, float]:
    """Recall@1 and @10."""
    figures = ranking_metrics(rankings, targets, _CUTOFFS)
    return {name: value for name, value in figures.items() if name.startswith("recall")}


def cold_figures(engine: Engine, examples: Examples, num_warm: int) -> dict[str, Any]:
    """Recalls of the examples among the cold items alone and in the full catalogue.

    Args:
        engine: With the cold items, from row `num_warm` on.
        examples: By the engine's rows.
        num_warm: Items before them.
    """
    catalog = engine.catalog
    cold = np.arange(num_warm, catalog.num_items)
    engine.define(_SET, [catalog.item_ids[row] for row in cold])
    histories, targets = examples.histories, examples.targets
    width = max(K, engine.config.beam_width)
    near = text_neighbours(catalog, histories)
    among, _ = engine.recommend_rows(
        histories, min(K, len(cold)), allow=_SET, exclude_history=True, beam_width=width
    )
    full, _ = engine.recommend_rows(histories, K, exclude_history=True, beam_width=width)
    return {
        "num_examples": len(targets),
        "among_cold": {
            "ours": recall(_padded(among), targets),
            "text_neighbours": recall(top_rows(near, histories, cold), targets),
            "random": {f"recall@{k}": min(1.0, k / len(cold)) for k in _CUTOFFS},
        },
        "full_catalogue": {
            "ours": recall(full, targets),
            "text_neighbours": recall(top_rows(near, histories), targets),
            "random": {f"recall@{k}": k / catalog.num_items for k in _CUTOFFS},
        },
    }


def _padded(rankings: Rankings) -> Rankings:
    return np.pad(rankings, ((0, 0), (0, K - rankings.shape[1])), constant_values=-1)


def warm_figures(engine: Engine, split: Split, num_warm: int) -> dict[str, Any]:
    """Figures of the run's own test: recalls, by the target's frequency, and what is shown."""
    rankings = rank_all(engine, split.test, K, exclude_history=True)
    frequency = event_counts(split.train, num_warm)
    padded = np.pad(frequency, (0, engine.catalog.num_items - num_warm))
    targets = split.test.targets
    buckets = metrics_by_frequency(rankings, targets, padded, _CUTOFFS)
    return {
        **recall(rankings, targets),
        f"share_of_cold@{K}": float((rankings >= num_warm).mean()),
        f"coverage@{K}": coverage(rankings, engine.catalog.num_items, K),
        f"long_tail_share@{K}": long_tail_share(rankings, padded, K),
        "buckets": {name: bucket.get(f"recall@{K}") for name, bucket in buckets.items()},
    }
