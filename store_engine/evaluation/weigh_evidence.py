"""A run's item-item evidence: fitted to its histories, weighed against its LLM on validation users.

Weights are chosen where training events alone have been counted, as validation targets have been
counted nowhere then. What is recommended with counts all events before the test, by the same
weights: a server has seen them, and the test's histories hold them too. Both are measured.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from store_engine.collaborative.evidence import Evidence, NewItemVotes
from store_engine.collaborative.experts import Choices, Expert, weigh_experts
from store_engine.config import Config
from store_engine.data.catalog import Catalog
from store_engine.data.split import Examples, Split
from store_engine.decoding.engine import Engine
from store_engine.decoding.evidence import EvidenceScorer, ItemEvidence
from store_engine.decoding.vote_sums import ExpertScores, VoteSums
from store_engine.evaluation.evaluate_run import USERS_PER_CALL, rank_all
from store_engine.evaluation.metrics import ranking_metrics
from store_engine.evaluation.validation import sample_examples
from store_engine.runs.run_directory import RunDirectory
from store_engine.terminal import tracked

_K, _USERS = 10, 6000
CANDIDATES = 64  # of a user, among whom the next item is to be found
_NONE = np.float32(-1e6)  # log-probability of a place without an item
_OFFSETS = (-512.0, 512.0)  # of new items: none is recommended, only they are

EngineMaker = Callable[[EvidenceScorer], Engine]


def fit_run_evidence(
    run: RunDirectory, split: Split, catalog: Catalog, config: Config, make_engine: EngineMaker
) -> Evidence:
    """Fits a run's evidence and writes it; one that goes on from another keeps the weights.

    Args:
        run: The run, whose LLM is trained.
        split: Its events.
        catalog: Its items.
        config: Its config, in which nothing is left to the data.
        make_engine: Makes the recommender with some evidence.

    Returns:
        That of the training events.
    """
    from store_engine.collaborative.fit_evidence import fit_terms, updated

    settings, seed = config.evidence, config.train.seed
    if run.is_complete(run.start_evidence) and not run.is_complete(run.training_evidence):
        old = Evidence.load(run.start_evidence)
        with run.writing(run.training_evidence):
            newer = updated(old, split.train, catalog, settings, seed)
            newer.save(run.training_evidence)
    if not run.is_complete(run.training_evidence):
        fitted = fit_terms(
            split.train,
            split.valid,
            catalog,
            settings,
            exclude_history=config.decoding.exclude_history is True,
            seed=seed,
        )
        evidence = fitted.evidence(settings.neighbours)
        experts = fitted.experts(evidence)
        evidence = weigh_evidence(make_engine, evidence, experts, split.valid, seed)
        with run.writing(run.training_evidence):
            evidence.save(run.training_evidence)
    evidence = Evidence.load(run.training_evidence)
    with run.writing(run.evidence):
        updated(evidence, split.before_test, catalog, settings, seed).save(run.evidence)
    return evidence


def weigh_evidence(
    make_engine: EngineMaker,
    evidence: Evidence,
    experts: Sequence[Expert],
    examples: Examples,
    seed: int,
) -> Evidence:
    """Chooses how much each term of evidence weighs beside an LLM.

    Args:
        make_engine: Makes the recommender with some evidence.
        evidence: The sum, which names items.
        experts: The terms over its entries, whatever their weights.
        examples: Validation users, of whom a sample is taken.
        seed: Of the sample.

    Returns:
        As `weigh_beside`.
    """
    if not len(examples.targets):
        return evidence
    scorer, sample = ItemEvidence(evidence), sample_examples(examples, _USERS, seed)
    engine, width = make_engine(scorer), min(CANDIDATES, evidence.num_items)
    found = [
        engine.recommend_rows(
            sample.histories[begin : begin + USERS_PER_CALL], width, evidence=True
        )
        for begin in tracked(range(0, len(sample.histories), USERS_PER_CALL), "weighing")
    ]
    rows, scores = (np.concatenate(parts) for parts in zip(*found, strict=True))
    logprobs = scores - scorer.score(sample.histories, rows)
    return weigh_beside(rows, logprobs, evidence, experts, sample)


def weigh_beside(
    rows: NDArray[np.int64],
    logprobs: NDArray[np.float32],
    evidence: Evidence,
    experts: Sequence[Expert],
    examples: Examples,
) -> Evidence:
    """Chooses how much each term of evidence weighs beside a model; see `experts`.

    Args:
        rows: (num_users, width) items that each user may have chosen, -1 for none. A user counts
            whose target is among them.
        logprobs: (num_users, width) the model's.
        evidence: Over whose entries the experts vote.
        experts: The terms, whatever their weights.
        examples: The users.

    Returns:
        The evidence with the experts that are left; it is the sum alone where none is.
    """
    is_target = rows == examples.targets[:, None]
    users = np.flatnonzero(is_target.any(1))
    rows, histories = rows[users], [examples.histories[user] for user in users]
    votes = ExpertScores(VoteSums.of(evidence), experts).sums(histories, rows)
    found = weigh_experts(
        Choices(
            torch.from_numpy(np.where(rows >= 0, logprobs[users], _NONE)),
            torch.from_numpy(votes),
            torch.from_numpy(is_target[users].argmax(1)),
        )
    )
    weighed = tuple(
        dataclasses.replace(experts[term], weight=weight, unit=unit)
        for term, weight, unit in zip(*found, strict=True)
    )
    return dataclasses.replace(evidence, experts=weighed)


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
