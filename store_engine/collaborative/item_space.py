"""The training-free space of items: co-visits beside text, in the form that validation prefers."""

import itertools
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from store_engine.collaborative.co_visits import Counts
from store_engine.collaborative.evidence import FORMS, Mix
from store_engine.collaborative.neighbours import recent_events
from store_engine.collaborative.spaces import Vectors, co_visit_space, text_space, unit_rows
from store_engine.collaborative.validation import dense_ndcg, sample
from store_engine.config import EvidenceConfig
from store_engine.data.catalog import Catalog
from store_engine.data.histories import Histories
from store_engine.data.split import Examples

TEXT_WEIGHTS = (0.7, 1.4)  # of the text beside the co-visits

_CO_VISIT_DIM, _TEXT_DIM = 96, 32
_CLEARLY = 1.02  # how much better a later mix must be: less is noise
_TINY = 1e-12  # instead of a length of 0
_DECAY, _RECENT = 0.7, 5  # of the histories by whose neighbours the form is chosen


class ItemSpace(NamedTuple):
    """Items as vectors, and how they were made."""

    vectors: Vectors  # (num_items, dim)
    mix: Mix
    ndcg: float  # NDCG@10 of nearest neighbours on validation users; 0 where there are none


_DEFAULT = Mix("unit", 0.7)  # without validation users


def item_space(
    train: Histories, valid: Examples, catalog: Catalog, settings: EvidenceConfig, seed: int = 0
) -> ItemSpace:
    """Makes the space that a model starts from and that SIDs can be cut from.

    Per item 96 components of the symmetric co-visit space beside 32 of the text space, fewer where
    the catalogue has fewer items. Form and weight of the text are chosen by the nearest neighbours
    of validation users; without any they are `unit` and 0.7.

    Args:
        train: The events that may be counted.
        valid: The validation users.
        catalog: Items and their text.
        settings: Window and smoothing of the co-visits.
        seed: Seed of the SVDs and of the sample of users.
    """
    counts = Counts(train, catalog.num_items, settings)
    visited = co_visit_space(
        counts.directed,
        counts.frequency,
        settings.smoothing,
        _CO_VISIT_DIM,
        symmetric=True,
        seed=seed,
    ).sources
    return best_mix(visited, text_space(catalog, _TEXT_DIM, seed), valid, seed)


def best_mix(visited: Vectors, text: Vectors, valid: Examples, seed: int) -> ItemSpace:
    """Chooses how two spaces are put together by the nearest neighbours of validation users."""
    examples = sample(valid, len(visited), seed)
    if not len(examples.targets):
        return ItemSpace(join(visited, text, _DEFAULT), _DEFAULT, 0.0)
    events = recent_events(examples.histories, len(visited), _DECAY, _RECENT)
    best = ItemSpace(join(visited, text, _DEFAULT), _DEFAULT, 0.0)
    for mix in itertools.starmap(Mix, itertools.product(FORMS, TEXT_WEIGHTS)):
        vectors = join(visited, text, mix)
        measured = _neighbour_ndcg(vectors, events, examples)
        if measured > best.ndcg * _CLEARLY:
            best = ItemSpace(vectors, mix, measured)
    return best


def join(visited: Vectors, text: Vectors, mix: Mix) -> Vectors:
    """Puts the co-visit space beside the text space, whose rows have length 1.

    Args:
        visited: (num_items, dim).
        text: (num_items, dim).
        mix: Form, and factor of the text.

    Returns:
        (num_items, sum of both dims) float32.
    """
    text = np.float32(mix.text_weight) * text
    if mix.form == "unit":
        return unit_rows(np.hstack([unit_rows(visited), text]))
    length = np.sqrt((visited**2).sum(1).mean())
    return np.hstack([visited / max(length, _TINY), text])


def _neighbour_ndcg(space: Vectors, events: sp.csr_array, examples: Examples) -> float:
    queries: NDArray[np.float32] = (events @ space).astype(np.float32)
    return dense_ndcg(
        lambda users: queries[users] @ space.T, examples, len(space), exclude_history=True
    )
