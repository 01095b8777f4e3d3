"""A run's item-item evidence: fitted to its histories, weighed against its LLM on validation users.

Weights are chosen where training events alone have been counted, as validation targets have been
counted nowhere then. What is recommended with counts all events before the test, by the same
weights: a server has seen them, and the test's histories hold them too. Both are measured.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from store_engine.collaborative.evidence import Evidence, NewItemVotes
from store_engine.config import Config
from store_engine.data.catalog import Catalog
from store_engine.data.split import Examples, Split
from store_engine.decoding.engine import Engine
from store_engine.decoding.evidence import EvidenceScorer, ItemEvidence
from store_engine.evaluation.evaluate_run import rank_all
from store_engine.evaluation.metrics import per_user_metrics, ranking_metrics
from store_engine.evaluation.validation import sample_examples
from store_engine.runs.run_directory import RunDirectory

_K, _USERS = 10, 6000
_SCALES = tuple(2.0**e for e in range(-4, 5))
_OFFSETS = (-64.0, 64.0)  # of new items: none is recommended, only they are

EngineMaker = Callable[[EvidenceScorer], Engine]


def fit_run_evidence(
    run: RunDirectory, split: Split, catalog: Catalog, config: Config, make_engine: EngineMaker
) -> None:
    """Fits a run's evidence and writes it; one that goes on from another keeps the weights.

    Args:
        run: The run, whose LLM is trained.
        split: Its events.
        catalog: Its items.
        config: Its config, in which nothing is left to the data.
        make_engine: Makes the recommender with some evidence.
    """
    from store_engine.collaborative.fit_evidence import fit_evidence, updated

    settings, seed = config.evidence, config.train.seed
    if run.is_complete(run.start_evidence) and not run.is_complete(run.training_evidence):
        fitted = Evidence.load(run.start_evidence)
        with run.writing(run.training_evidence):
            newer = updated(fitted, split.train, catalog, settings, seed)
            newer.save(run.training_evidence)
    if not run.is_complete(run.training_evidence):
        evidence = fit_evidence(
            split.train,
            split.valid,
            catalog,
            settings,
            exclude_history=config.decoding.exclude_history is True,
            seed=seed,
        )
        evidence = evidence.scaled(weigh_evidence(make_engine, evidence, split.valid, seed))
        with run.writing(run.training_evidence):
            evidence.save(run.training_evidence)
    evidence = Evidence.load(run.training_evidence)
    with run.writing(run.evidence):
        updated(evidence, split.before_test, catalog, settings, seed).save(run.evidence)


def weigh_evidence(
    make_engine: EngineMaker, evidence: Evidence, examples: Examples, seed: int
) -> float:
    """Chooses how much evidence weighs against log-probabilities.

    Args:
        make_engine: Makes the recommender with some evidence.
        evidence: In units of its own.
        examples: Validation users, of whom a sample is taken.
        seed: Of the sample.

    Returns:
        Of the scales whose NDCG@10 is at most one standard error below the best one's, the largest.
        The evidence is the simpler model, and the LLM has been chosen on these users before
        (Breiman et al. 1984, the one-standard-error rule, with the paired difference's error).
    """
    sample = sample_examples(examples, _USERS, seed)

    def measure(scale: float) -> NDArray[np.float64]:
        rankings = rank_all(make_engine(ItemEvidence(evidence, scale)), sample, _K)
        return per_user_metrics(rankings, sample.targets, (_K,))[f"ndcg@{_K}"]

    found = {scale: measure(scale) for scale in _SCALES}
    best = max(found.values(), key=lambda ndcg: float(ndcg.mean()))

    def is_as_good(ndcg: NDArray[np.float64]) -> bool:
        loss = best - ndcg
        return bool(loss.mean() <= loss.std() / len(loss) ** 0.5)

    return max(scale for scale, ndcg in found.items() if is_as_good(ndcg))


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
