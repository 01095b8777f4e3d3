"""How much item-item evidence weighs against the LLM: chosen on validation users."""

from collections.abc import Callable

import numpy as np

from store_engine.collaborative.evidence import Evidence, NewItemVotes
from store_engine.data.split import Examples
from store_engine.decoding.engine import Engine
from store_engine.decoding.evidence import EvidenceScorer, ItemEvidence
from store_engine.evaluation.evaluate_run import rank_all
from store_engine.evaluation.metrics import ranking_metrics

_K = 10
_COARSE = tuple(2.0**e for e in range(-5, 4))
_FINE = (2.0**-0.5, 2.0**0.5)
_OFFSETS = (-64.0, 64.0)  # of new items: none is recommended, only they are


def weigh_evidence(
    make_engine: Callable[[EvidenceScorer], Engine], evidence: Evidence, examples: Examples
) -> Evidence:
    """Scales evidence so that its sum with log-probabilities ranks best.

    Args:
        make_engine: Makes the recommender with evidence.
        evidence: In units of its own.
        examples: Validation users.

    Returns:
        The evidence in units of log-probability: of a few scales the one with the best NDCG@10.
    """

    def measure(scale: float) -> float:
        engine = make_engine(ItemEvidence(evidence, scale))
        rankings = rank_all(engine, examples, _K)
        return ranking_metrics(rankings, examples.targets, (_K,))[f"ndcg@{_K}"]

    found = {scale: measure(scale) for scale in _COARSE}
    best = max(found, key=lambda scale: found[scale])
    found |= {best * factor: measure(best * factor) for factor in _FINE}
    return evidence.scaled(np.float32(max(found, key=lambda scale: found[scale])))


def weigh_new_items(
    engine: Engine, votes: NewItemVotes, examples: Examples, price: float = 0.01
) -> float:
    """Lets an engine recommend new items as much as its old ones can bear.

    Args:
        engine: With the new items; takes the votes with the offset that is chosen.
        votes: For the new items.
        examples: Validation users of the old items.
        price: Share of these users' Recall@10 that may be lost.

    Returns:
        The largest offset, to 1/16, that costs no more.
    """

    def measure(offset: float) -> float:
        engine.vote_for_new_items(votes.with_offset(offset))
        rankings = rank_all(engine, examples, _K)
        return ranking_metrics(rankings, examples.targets, (_K,))[f"recall@{_K}"]

    low, high = _OFFSETS
    least = (1 - price) * measure(low)
    while high - low > 1 / 16:
        middle = (low + high) / 2
        low, high = (middle, high) if measure(middle) >= least else (low, middle)
    engine.vote_for_new_items(votes.with_offset(low))
    return low
