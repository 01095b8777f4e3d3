"""SLIST: linear models of sets and of order, solved at once; a strong baseline without a network.

The items' matrix B minimises alpha ||X - X B||^2 + (1 - alpha) ||T - S B||^2 + ridge ||B||^2: X
holds each user's items; a row of S what came before one of the user's events, a row of T that
event and what came after, weighted by exp(-steps / train_decay) from there. alpha = 0 is SLIT,
alpha = 1 is SLIS with its diagonal left free.

Source: Choi et al., WWW 2021, https://arxiv.org/abs/2103.16104. Its weight of a session's age is
left out: our data sets have the order alone.
"""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray

from store_engine.data.histories import Histories

_RECENT = 50  # events of a history that are looked at
GRID = {"alpha": (0.0, 0.2, 0.8), "train_decay": (1.0, 4.0), "decay": (1.0, 2.0, 4.0)}


@dataclass(frozen=True)
class SlistConfig:
    """How SLIST is fitted and read.

    Args:
        alpha: Share of the sets against the order.
        train_decay: Steps after which an event's weight in S and T has fallen to 1 / e.
        decay: The same of the history at inference.
        ridge: Weight of the squares of B.
    """

    alpha: float = 0.2
    train_decay: float = 1.0
    decay: float = 1.0
    ridge: float = 10.0


class Slist:
    """The solved model; holds two dense float32 matrices of (num_items, num_items) while fitted.

    Args:
        events: The events that may be counted.
        num_items: Size of the catalogue.
        config: How.
    """

    def __init__(self, events: Histories, num_items: int, config: SlistConfig) -> None:
        self.config, self.num_items = config, num_items
        histories = [events[user] for user in range(events.num_users)]
        sets = _matrix(((np.ones(len(h)), h) for h in map(np.unique, histories)), num_items)
        before, after = _splits(histories, config.train_decay, num_items)
        alpha = config.alpha
        gram = alpha * (sets.T @ sets) + (1 - alpha) * (before.T @ before)
        wanted = alpha * (sets.T @ sets) + (1 - alpha) * (before.T @ after)
        left = torch.from_numpy(gram.toarray().astype(np.float32))
        left.diagonal().add_(config.ridge)
        factor = torch.linalg.cholesky(left, out=left)
        right = torch.from_numpy(wanted.toarray().astype(np.float32))
        self.weights = torch.cholesky_solve(right, factor).numpy()

    def with_decay(self, decay: float) -> "Slist":
        """The same matrix, read with another decay."""
        other = object.__new__(Slist)
        other.config, other.num_items = replace(self.config, decay=decay), self.num_items
        other.weights = self.weights
        return other

    def scores(self, histories: Sequence[NDArray[np.int32]]) -> NDArray[np.float32]:
        """Scores all items, (num_histories, num_items)."""
        rows = (_decayed(history[-_RECENT:][::-1], self.config.decay) for history in histories)
        found: NDArray[np.float32] = _matrix(rows, self.num_items) @ self.weights
        return found


class Chosen(NamedTuple):
    """The best of the grid."""

    model: Slist
    validation: float


def choose(
    events: Histories,
    num_items: int,
    validate: Callable[[Slist], float],
    grid: Mapping[str, Sequence[float]] = GRID,
) -> Chosen:
    """Fits every pair of alpha and train_decay, reads each with every decay, and keeps the best.

    Args:
        events: The training events.
        num_items: Size of the catalogue.
        validate: Measures a model on validation users, higher is better.
        grid: Values by name, as `GRID`.
    """
    best: Chosen | None = None
    for alpha, train_decay in itertools.product(grid["alpha"], grid["train_decay"]):
        fitted = Slist(events, num_items, SlistConfig(alpha, train_decay))
        for model in map(fitted.with_decay, grid["decay"]):
            measured = validate(model)
            if best is None or measured > best.validation:
                best = Chosen(model, measured)
    assert best is not None
    return best


def _splits(
    histories: Sequence[NDArray[np.int32]], decay: float, num_items: int
) -> tuple[sp.csr_array, sp.csr_array]:
    """S and T: what came before each event but the first, and it with what came after."""
    cuts = [(history, i) for history in histories for i in range(1, len(history))]
    before = (_decayed(history[max(0, i - _RECENT) : i][::-1], decay) for history, i in cuts)
    after = (_decayed(history[i : i + _RECENT], decay) for history, i in cuts)
    return _matrix(before, num_items), _matrix(after, num_items)


def _decayed(
    nearest_first: NDArray[np.int32], decay: float
) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    """Each item once, at its nearest place: weights and items."""
    items, places = np.unique(nearest_first, return_index=True)
    return np.exp(-places / decay), items


def _matrix(
    rows: Iterable[tuple[NDArray[np.float64], NDArray[np.int32]]], width: int
) -> sp.csr_array:
    """A sparse matrix of (weights, columns) by row."""
    pairs = list(rows)
    ends = np.cumsum([0, *(len(columns) for _, columns in pairs)])
    data = np.concatenate([np.empty(0), *(weights for weights, _ in pairs)]).astype(np.float32)
    columns = np.concatenate([np.empty(0, np.int32), *(columns for _, columns in pairs)])
    return sp.csr_array((data, columns, ends), shape=(len(pairs), width))
