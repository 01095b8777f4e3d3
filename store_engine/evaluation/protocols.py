"""Which items compete for the places of a ranking: one rule for the model and every baseline.

Where nobody chooses an item twice, items of the history only take places away, and papers leave
them out. Where people buy again, leaving them out makes every repeated purchase a miss. Neither
rule is right for all data, so every run is measured under both.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from store_engine.collaborative.co_visits import event_counts
from store_engine.data.histories import COMMON_REPEATS
from store_engine.data.split import Examples, Split
from store_engine.evaluation.baselines import (
    co_visitation,
    own_items,
    popularity,
)
from store_engine.evaluation.metrics import (
    coverage,
    cutoffs_up_to,
    long_tail_share,
    metrics_by_frequency,
    ranking_metrics,
    standard_errors,
)

Rankings = NDArray[np.int64]  # (num_users, max_k) catalogue rows, best first, -1 padded


@dataclass(frozen=True)
class CandidateRule:
    """Which items compete for a user's places.

    Args:
        name: Its key in metrics.json.
        title: Its name in print.
        exclude_history: Leave out the items of the user's history; else all items compete.
    """

    name: str
    title: str
    exclude_history: bool


SEEN_LEFT_OUT = CandidateRule("seen_left_out", "seen items left out", True)
SEEN_ALLOWED = CandidateRule("seen_allowed", "seen items allowed", False)
RULES = (SEEN_LEFT_OUT, SEEN_ALLOWED)


Ranker = Callable[[CandidateRule], Rankings]  # ranks the test's users under a rule


def primary_rule(exclude_history: bool) -> CandidateRule:
    """Returns the rule that a run's `decoding.exclude_history` stands for."""
    return SEEN_LEFT_OUT if exclude_history else SEEN_ALLOWED


def share_of_targets_seen(examples: Examples) -> float:
    """Returns the share of targets that stand in the user's history."""
    pairs = zip(examples.histories, examples.targets, strict=True)
    return float(np.mean([target in history for history, target in pairs]))


def baseline_rankings(split: Split, num_items: int, k: int, rule: CandidateRule) -> dict[str, Any]:
    """Ranks with every baseline that makes sense under `rule`.

    Args:
        split: Training events, and the test's histories.
        num_items: Size of the catalogue.
        k: Length of the rankings.
        rule: Which items compete.

    Returns:
        Name -> (num_users, k) catalogue rows. They count training events; `co_visitation_updated`
        counts the validation events too. `own_items` is there if seen items are allowed and
        at least 1 % of the targets stand in the user's history.
    """
    histories = split.test.histories
    exclude = rule.exclude_history
    rankings = {
        "popularity": popularity(split.train, num_items, histories, k, exclude_history=exclude),
        "co_visitation": co_visitation(
            split.train, num_items, histories, k, exclude_history=exclude
        ),
        "co_visitation_updated": co_visitation(
            split.before_test, num_items, histories, k, exclude_history=exclude
        ),
    }
    if not exclude and share_of_targets_seen(split.test) >= COMMON_REPEATS:
        rankings["own_items"] = own_items(split.train, num_items, histories, k)
    return rankings


def measure(
    rank: Ranker,
    split: Split,
    num_items: int,
    max_k: int,
    parts: Mapping[str, Ranker] = MappingProxyType({}),
) -> dict[str, dict[str, Any]]:
    """Measures a recommender beside the baselines, under each rule.

    Args:
        rank: Gives the recommender's rankings of the test's users under a rule.
        split: Training events, and the test's examples.
        num_items: Size of the catalogue.
        max_k: Length of the rankings.
        parts: Rankings by parts of the recommender, which are printed among the baselines.

    Returns:
        Name of the rule -> `metrics` and `standard_errors` of the recommender, `baselines` and
        `baseline_standard_errors` by name, `buckets` by the target's frequency in training,
        `invalid_items` (places with no item of the catalogue) and `missing_items` (places left
        empty, because fewer than max_k items compete).
    """
    frequency, targets = event_counts(split.train, num_items), split.test.targets
    cutoffs, short = cutoffs_up_to(max_k), min(10, max_k)
    measured = {}
    for rule in RULES:
        rankings = rank(rule)
        baselines = baseline_rankings(split, num_items, max_k, rule)
        baselines |= {name: part(rule) for name, part in parts.items()}
        measured[rule.name] = {
            "metrics": ranking_metrics(rankings, targets, cutoffs)
            | {
                f"coverage@{short}": coverage(rankings, num_items, short),
                f"long_tail_share@{short}": long_tail_share(rankings, frequency, short),
            },
            "standard_errors": standard_errors(rankings, targets, cutoffs),
            "baselines": {n: ranking_metrics(r, targets, cutoffs) for n, r in baselines.items()},
            "baseline_standard_errors": {
                n: standard_errors(r, targets, cutoffs) for n, r in baselines.items()
            },
            "buckets": metrics_by_frequency(rankings, targets, frequency, cutoffs),
            "invalid_items": int(((rankings < -1) | (rankings >= num_items)).sum()),
            "missing_items": int((rankings == -1).sum()),
        }
    return measured
