"""Fitting evidence: weights of the terms and the decay, by validation, then one matrix.

A coordinate search on NDCG@10 of validation users. Terms are scored once; a step of the search
weighs the scores of each user's candidates, the best of every term.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray

from store_engine.collaborative.co_visits import Counts
from store_engine.collaborative.evidence import Evidence, Mix
from store_engine.collaborative.experts import Expert
from store_engine.collaborative.neighbours import recent_events
from store_engine.collaborative.terms import build_terms, scaled
from store_engine.collaborative.top_votes import top_entries, votes_at
from store_engine.collaborative.validation import ndcg, sample, user_blocks
from store_engine.config import EvidenceConfig
from store_engine.data.catalog import Catalog
from store_engine.data.histories import Histories
from store_engine.data.split import Examples

Terms = dict[str, sp.csr_array]

_WINDOW = 20  # last events of a history that vote
_DECAYS = (0.6, 0.3, 0.4, 0.5, 0.7, 0.8, 0.9)  # the first one chooses the candidates
_WEIGHTS = (0.0, 0.1, 0.2, 0.4, 0.7, 1.0, 1.5, 2.5)
_START_DECAYS = (0.4, 0.6, 0.8)
_ROUNDS = 4
_GAIN = 1e-4  # of NDCG@10, below which a change is noise
_CANDIDATES = 100  # of every term and user
# without validation users; near what public data sets choose
_DEFAULT_DECAY = 0.6
_OWN = "own"  # the name of an item's vote for itself, where items of the history compete


class FittedTerms(NamedTuple):
    """Terms with what validation chose."""

    terms: Terms
    weights: dict[str, float]  # of mean 1
    decay: float  # of the weighted sum
    own_decays: dict[str, float]  # of each term when it stands alone
    mix: Mix

    def evidence(self, neighbours: int) -> Evidence:
        """The weighted sum in one matrix, the largest `neighbours` votes of every item."""
        return _collapsed(self.terms, self.weights, neighbours, self.decay, self.mix)

    def experts(self, evidence: Evidence) -> tuple[Expert, ...]:
        """Every term as an expert over the entries of evidence, to be weighed beside an LLM."""
        return tuple(
            Expert(name, 0.0, 1.0, decay, _halfs(self.terms[name], evidence))
            for name, decay in self.own_decays.items()
        )

    def alone(self, name: str) -> Evidence:
        """One term by itself."""
        term = {name: self.terms[name]}
        return _collapsed(
            term, {name: 1.0}, self.terms[name].shape[0], self.own_decays[name], self.mix
        )


def fit_evidence(
    train: Histories,
    valid: Examples,
    catalog: Catalog,
    settings: EvidenceConfig,
    *,
    exclude_history: bool = True,
    seed: int = 0,
) -> Evidence:
    """Fits evidence: `fit_terms`, collapsed into one matrix."""
    fitted = fit_terms(train, valid, catalog, settings, exclude_history=exclude_history, seed=seed)
    return fitted.evidence(settings.neighbours)


def fit_terms(
    train: Histories,
    valid: Examples,
    catalog: Catalog,
    settings: EvidenceConfig,
    *,
    exclude_history: bool = True,
    seed: int = 0,
) -> FittedTerms:
    """Builds the terms and chooses weights and decays.

    Args:
        train: The events that may be counted.
        valid: Users on whom weights and decay are chosen; without any, all terms weigh the same.
        catalog: Items and their text.
        settings: The window of co-visits, smoothing, rank, neighbours.
        exclude_history: Choose for rankings without the user's own items; else an item also
            votes for itself, by a weight of its own.
        seed: Of the SVDs and of the sample of users.
    """
    counts = Counts(train, catalog.num_items, settings)
    terms, mix = build_terms(counts, catalog, valid, seed)
    if not exclude_history:
        terms[_OWN] = sp.eye_array(catalog.num_items, format="csr", dtype=np.float32)
    examples = sample(valid, catalog.num_items, seed)
    if not len(examples.targets):
        equal = dict.fromkeys(terms, 1.0)
        return FittedTerms(terms, equal, _DEFAULT_DECAY, dict.fromkeys(terms, _DEFAULT_DECAY), mix)
    votes = _votes(list(terms.values()), examples, exclude_history)
    singles = [(term, _best_decay(votes, term)) for term in len(terms) * np.eye(len(terms))]
    starts = [*singles, *((np.ones(len(terms)), decay) for decay in _START_DECAYS)]
    _, weights, decay = max((_climb(votes, *start) for start in starts), key=lambda end: end[0])
    chosen = dict(zip(terms, weights.tolist(), strict=True))
    own_decays = dict(zip(terms, (decay for _, decay in singles), strict=True))
    return FittedTerms(terms, chosen, decay, own_decays, mix)


def updated(
    evidence: Evidence, train: Histories, catalog: Catalog, settings: EvidenceConfig, seed: int = 0
) -> Evidence:
    """Builds evidence anew from more events, with the weights, decay and scale that it has.

    Args:
        evidence: What was fitted.
        train: All events that may be counted now, the old ones too.
        catalog: All items now.
        settings: As it was fitted with.
        seed: Of the SVDs.
    """
    used = {name for name, weight in evidence.weights.items() if weight}
    used |= {expert.name for expert in evidence.experts}
    if "regression" not in used:  # the dearest term
        settings = dataclasses.replace(settings, max_regression_items=0)
    counts = Counts(train, catalog.num_items, settings)
    terms, mix = build_terms(counts, catalog, evidence.mix, seed)
    if _OWN in evidence.weights:
        terms[_OWN] = sp.eye_array(catalog.num_items, format="csr", dtype=np.float32)
    newer = _collapsed(terms, evidence.weights, settings.neighbours, evidence.decay, mix)
    newer = newer.scaled(evidence.scale)
    experts = tuple(
        dataclasses.replace(expert, data=_halfs(terms[expert.name], newer))
        for expert in evidence.experts
        if expert.name in terms
    )
    return dataclasses.replace(newer, experts=experts)


class _Votes(NamedTuple):
    """Scores of the validation users' candidates, all users' in one row after the other."""

    margins: NDArray[np.float32]  # (num_candidates, num_terms), above the user's target
    own: NDArray[np.float32]  # (num_users, num_terms) of the target
    begins: NDArray[np.int64]  # (num_users,)

    def ndcg(self, weights: NDArray[np.float64]) -> float:
        """NDCG@10 of the weighted sum."""
        margins = self.margins @ weights.astype(np.float32)
        better = np.add.reduceat(margins > 0, self.begins, dtype=np.int64)
        equal = np.add.reduceat(margins == 0, self.begins, dtype=np.int64) - 1
        return ndcg(better + equal / 2, self.own @ weights > 0)


def _best_decay(votes: dict[float, _Votes], weights: NDArray[np.float64]) -> float:
    return max(votes, key=lambda decay: votes[decay].ndcg(weights))


def _climb(
    votes: dict[float, _Votes], weights: NDArray[np.float64], decay: float
) -> tuple[float, NDArray[np.float64], float]:
    """Changes one weight or the decay at a time as long as that helps; NDCG@10 and where it is."""
    best = votes[decay].ndcg(weights)
    for _ in range(_ROUNDS):
        before = best
        for term in range(len(weights)):
            for weight in _WEIGHTS:
                changed = weights.copy()
                changed[term] = weight
                found = votes[decay].ndcg(changed)
                if found > best + _GAIN:
                    # of mean 1 again, so that the same steps are fine and coarse enough
                    best, weights = found, changed / changed.mean()
        for other in votes:
            found = votes[other].ndcg(weights)
            if found > best + _GAIN:
                best, decay = found, other
        if best == before:
            break
    return best, weights, decay


def _votes(
    terms: list[sp.csr_array], examples: Examples, exclude_history: bool
) -> dict[float, _Votes]:
    """Scores every user's candidates by all terms and decays."""
    num_items = terms[0].shape[0]
    events = {
        decay: recent_events(examples.histories, num_items, decay, _WINDOW).astype(np.float32)
        for decay in _DECAYS
    }
    margins: dict[float, list[NDArray[np.float32]]] = {decay: [] for decay in _DECAYS}
    own: dict[float, list[NDArray[np.float32]]] = {decay: [] for decay in _DECAYS}
    lengths = [np.zeros(1, dtype=np.int64)]
    for users in user_blocks(len(examples.targets), num_items):
        histories, targets = examples.histories[users], examples.targets[users]
        place = np.arange(len(targets)), targets
        is_seen = np.zeros((len(targets), num_items), dtype=bool)
        if exclude_history:
            for of_user, history in zip(is_seen, histories, strict=True):
                of_user[history] = True
        is_candidate = _candidates([events[_DECAYS[0]][users] @ term for term in terms], is_seen)
        is_candidate[place] = True
        lengths.append(is_candidate.sum(1))
        for decay, recent in events.items():
            scores = [(recent[users] @ term).toarray() for term in terms]
            of_target = np.stack([of_term[place] for of_term in scores], axis=1)
            best = np.stack([of_term[is_candidate] for of_term in scores], axis=1)
            margins[decay].append(best - np.repeat(of_target, lengths[-1], axis=0))
            own[decay].append(np.where(is_seen[place][:, None], 0, of_target))
    begins = np.cumsum(np.concatenate(lengths))[:-1]
    return {
        decay: _Votes(np.concatenate(margins[decay]), np.concatenate(own[decay]), begins)
        for decay in _DECAYS
    }


def _candidates(scores: list[sp.csr_array], is_seen: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Marks the best items of each user by each term: (num_users, num_items)."""
    is_candidate = torch.zeros(is_seen.shape, dtype=torch.bool)
    for of_term in scores:
        dense = torch.from_numpy(np.where(is_seen, np.float32(0), of_term.toarray()))
        best = dense.topk(min(_CANDIDATES, dense.shape[1]), sorted=False)[1]
        is_candidate.scatter_(1, best, True)
    return is_candidate.numpy() & ~is_seen


def _collapsed(
    terms: Terms, weights: dict[str, float], neighbours: int, decay: float, mix: Mix
) -> Evidence:
    """Sums the weighted terms into one matrix of each item's largest votes."""
    shape = next(iter(terms.values())).shape
    total = sp.csr_array(shape, dtype=np.float32)
    for name, term in terms.items():
        if weights.get(name, 0.0) > 0 and name != _OWN:
            total = total + term * np.float32(weights[name])
    matrix = scaled(top_entries(total, neighbours))
    if weights.get(_OWN, 0.0) > 0:
        matrix = matrix + terms[_OWN] * np.float32(weights[_OWN])
    matrix.sort_indices()
    return Evidence(
        matrix.indptr.astype(np.int64),
        matrix.indices.astype(np.int32),
        matrix.data.astype(np.float32),
        decay,
        _WINDOW,
        dict(weights),
        mix,
    )


def _halfs(term: sp.csr_array, evidence: Evidence) -> NDArray[np.float16]:
    """A term's votes at the entries of evidence, as an expert holds them."""
    votes = votes_at(term, evidence.matrix)
    return np.minimum(votes, np.finfo(np.float16).max).astype(np.float16)
