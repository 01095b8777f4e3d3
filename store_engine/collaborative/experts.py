"""Experts: terms of the evidence beside an LLM, each with a weight of its own.

A log-linear model of the next item (McFadden 1974; a product of experts, Hinton 2002): up to a
constant per user, an item's score is

    share * log p_LLM(item) + sum over terms t of weight_t * log(1 + votes_t(item) / unit_t)

with votes_t the decayed sum of the term's votes over the history. A weight may be negative: a term
that says what another says too is subtracted from it. All numbers are those of largest likelihood
on validation users, among the items that the beams and the evidence name; weights are Gaussian
around 0, and a term that is worth less than its parameters is left out (Akaike 1974). Ours.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_START_SHARE, _START_WEIGHT, _START_UNIT = 0.5, 0.2, 0.3
_PRIOR = 1.0  # nats that a weight of 1 costs, a share that is 1 off its start, a unit e^3 off
_UNIT_PRIOR = 0.1
_WORTH = 2.0  # nats that a term must bring for its two parameters
_MIN_SHARE = 0.02  # of the LLM: scores are in units of its log-probability
_STEPS = 100


@dataclass(frozen=True, eq=False)
class Expert:
    """One term of the evidence, as it counts beside an LLM.

    Args:
        name: The term's.
        weight: In units of the LLM's log-probability; may be negative.
        unit: Votes that count log 2, above 0.
        decay: Weight of an event against the one after it, in (0, 1].
        data: (num_votes,) float16, not negative: its votes at the entries of the evidence's matrix.

    Raises:
        ValueError: A number or the array is not of this form.
    """

    name: str
    weight: float
    unit: float
    decay: float
    data: NDArray[np.float16]

    def __post_init__(self) -> None:
        """Refuses numbers that no score could be made of."""
        if not np.isfinite([self.weight, self.unit]).all() or self.unit <= 0:
            raise ValueError(
                f"expert {self.name!r}: weight must be finite and unit above 0, got {self.weight}, "
                f"{self.unit}"
            )
        if not 0 < self.decay <= 1:
            raise ValueError(f"expert {self.name!r}: decay must be in (0, 1], got {self.decay}")
        if self.data.ndim != 1 or self.data.dtype != np.float16:
            raise ValueError(f"expert {self.name!r}: data must be 1-d float16")
        if not (np.isfinite(self.data) & (self.data >= 0)).all():
            raise ValueError(f"expert {self.name!r}: data must be finite and not negative")


class Choices(NamedTuple):
    """What validation users chose, of what they could have.

    Args:
        logprobs: (num_users, width) float32, the LLM's; finite, very low for no item.
        votes: (num_users, width, num_terms) float32 sums.
        chosen: (num_users,) int64, which of them came next.
    """

    logprobs: Tensor
    votes: Tensor
    chosen: Tensor


class Weighing(NamedTuple):
    """Terms that are left, with weights in units of the LLM's log-probability, and units."""

    terms: list[int]
    weights: list[float]
    units: list[float]


def weigh_experts(choices: Choices) -> Weighing:
    """Fits the log-linear model, and leaves out terms as long as that costs little.

    Args:
        choices: Of some users; of none, all terms are left out.
    """
    terms = list(range(choices.votes.shape[2])) if len(choices.chosen) else []
    model = _LogLinear(len(terms))
    loss = _fit(model, choices, terms)
    while terms:
        fewer = []
        for left_out in range(len(terms)):
            kept = [place for place in range(len(terms)) if place != left_out]
            smaller = model.of_terms(kept)
            fewer.append((_fit(smaller, choices, [terms[place] for place in kept]), smaller, kept))
        least, smaller, kept = min(fewer, key=lambda one: one[0])
        if least - loss > _WORTH:
            break
        model, loss, terms = smaller, least, [terms[place] for place in kept]
    share = max(float(model.share.detach()), _MIN_SHARE)
    return Weighing(
        terms, (model.weights.detach() / share).tolist(), model.log_units.detach().exp().tolist()
    )


class _LogLinear(torch.nn.Module):
    def __init__(self, num_terms: int) -> None:
        super().__init__()
        full = torch.full((num_terms,), 1.0)
        self.share = torch.nn.Parameter(torch.tensor(_START_SHARE))
        self.weights = torch.nn.Parameter(full * _START_WEIGHT)
        self.log_units = torch.nn.Parameter(full * np.log(_START_UNIT))

    def of_terms(self, kept: list[int]) -> "_LogLinear":
        """A model that starts where this one is, without some terms."""
        smaller = _LogLinear(len(kept))
        with torch.no_grad():
            smaller.share.copy_(self.share)
            smaller.weights.copy_(self.weights[kept])
            smaller.log_units.copy_(self.log_units[kept])
        return smaller

    def forward(self, logprobs: Tensor, votes: Tensor) -> Tensor:
        experts = torch.log1p(votes / self.log_units.exp()) @ self.weights
        return self.share * logprobs + experts

    def price(self) -> Tensor:
        """Minus the log of the prior, up to a constant."""
        off_unit = self.log_units - float(np.log(_START_UNIT))
        return _PRIOR * (
            (self.share - _START_SHARE) ** 2
            + (self.weights**2).sum()
            + _UNIT_PRIOR * (off_unit**2).sum()
        )


def _fit(model: _LogLinear, choices: Choices, terms: list[int]) -> float:
    """Minimises the negative log-likelihood and the prior's price; returns their sum in nats."""
    votes, num_users = choices.votes[:, :, terms], max(1, len(choices.chosen))
    optimizer = torch.optim.LBFGS(
        model.parameters(), max_iter=_STEPS, history_size=20, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        scores = model(choices.logprobs, votes)
        likelihood = torch.nn.functional.cross_entropy(scores, choices.chosen, reduction="sum")
        return (likelihood + model.price()) / num_users

    def closure() -> float:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return float(value.detach())

    optimizer.step(closure)
    with torch.no_grad():
        return float(loss()) * num_users
