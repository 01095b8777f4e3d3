"""The item-item evidence of a run of ours beside another model, its experts weighed for that."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from benchmarks.quality.rankings import Score, rank
from store_engine.collaborative.evidence import Evidence
from store_engine.data.split import Examples
from store_engine.decoding.vote_sums import ExpertScores, VoteSums
from store_engine.evaluation.weigh_evidence import CANDIDATES, weigh_beside


def weighed_for(score: Score, evidence: Evidence, valid: Examples) -> Evidence:
    """Weighs the experts of a run's evidence anew, as `weigh_evidence` does for our LLM.

    Args:
        score: Log-probabilities of the model.
        evidence: Of the training events.
        valid: Validation users, seen items left out.
    """

    def by_sum(histories: Sequence[NDArray[np.int32]]) -> NDArray[np.float32]:
        return score(histories) + evidence.score(histories)

    rows = rank(by_sum, valid.histories, CANDIDATES, exclude_history=True)
    logprobs = np.take_along_axis(score(valid.histories), rows, 1)
    return weigh_beside(rows, logprobs, evidence, evidence.experts, valid)


def like(evidence: Evidence, other: Evidence) -> Evidence:
    """Returns evidence with the experts of another, by name, as those are weighed there."""
    of_name = {expert.name: expert for expert in evidence.experts}
    experts = tuple(
        dataclasses.replace(of_name[one.name], weight=one.weight, unit=one.unit)
        for one in other.experts
    )
    return dataclasses.replace(evidence, experts=experts)


def with_evidence(score: Score, evidence: Evidence) -> Score:
    """Adds what the experts give to a score; evidence has one or more."""
    experts = ExpertScores(VoteSums.of(evidence), evidence.experts)
    rows = np.arange(evidence.num_items)

    def summed(histories: Sequence[NDArray[np.int32]]) -> NDArray[np.float32]:
        scores = score(histories)
        for own, history in zip(scores, histories, strict=True):
            own += experts.score([history], rows[None])[0]
        return scores

    return summed
