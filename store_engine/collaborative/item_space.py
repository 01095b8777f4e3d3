"""The training-free space of items: co-visits beside text, in the form that validation prefers."""

from typing import Literal, NamedTuple

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from store_engine.collaborative.co_visits import co_visits, event_counts
from store_engine.collaborative.neighbours import recent_events
from store_engine.collaborative.spaces import Vectors, co_visit_space, text_space, unit_rows
from store_engine.collaborative.validation import dense_ndcg, sample
from store_engine.config import EvidenceConfig
from store_engine.data.catalog import Catalog
from store_engine.data.histories import Histories
from store_engine.data.split import Examples

# unit: every row of length 1, both parts in every item in the same proportion; norms: frequent
# items have longer vectors, rare ones are mostly their text
Form = Literal["unit", "norms"]
FORMS: tuple[Form, ...] = ("unit", "norms")

_CO_VISIT_DIM, _TEXT_DIM, _TEXT_WEIGHT = 96, 32, 0.7
_TINY = 1e-12  # instead of a length of 0
_DECAY, _RECENT = 0.7, 5  # of the histories by whose neighbours the form is chosen


class ItemSpace(NamedTuple):
    """Items as vectors, and how they were made."""

    vectors: Vectors  # (num_items, dim)
    form: Form
    ndcg: float  # NDCG@10 of nearest neighbours on validation users; 0 where there are none


def item_space(
    train: Histories, valid: Examples, catalog: Catalog, settings: EvidenceConfig, seed: int = 0
) -> ItemSpace:
    """Makes the space that a model starts from and that SIDs can be cut from.

    Per item 96 components of the symmetric co-visit space beside 0.7 times 32 of the text space,
    fewer where the catalogue has fewer items.

    Args:
        train: The events that may be counted.
        valid: Users on whom the form is chosen; without any it is `unit`.
        catalog: Items and their text.
        settings: Window and smoothing of the co-visits.
        seed: Seed of the SVDs and of the sample of users.
    """
    frequency = event_counts(train, catalog.num_items)
    counts = co_visits(train, catalog.num_items, settings.window)
    visited = co_visit_space(
        counts, frequency, settings.smoothing, _CO_VISIT_DIM, symmetric=True, seed=seed
    ).sources
    return best_form(visited, text_space(catalog, _TEXT_DIM, seed), _TEXT_WEIGHT, valid, seed)


def best_form(
    visited: Vectors, text: Vectors, text_weight: float, valid: Examples, seed: int
) -> ItemSpace:
    """Chooses how two spaces are put together by the nearest neighbours of validation users."""
    examples = sample(valid, len(visited), seed)
    spaces = [join(visited, text, text_weight, form) for form in FORMS]
    if not len(examples.targets):
        return ItemSpace(spaces[0], FORMS[0], 0.0)
    events = recent_events(examples.histories, len(visited), _DECAY, _RECENT)
    measured = [_neighbour_ndcg(space, events, examples) for space in spaces]
    best = int(np.argmax(measured))
    return ItemSpace(spaces[best], FORMS[best], measured[best])


def join(visited: Vectors, text: Vectors, text_weight: float, form: Form) -> Vectors:
    """Puts the co-visit space beside the text space, whose rows have length 1.

    Args:
        visited: (num_items, dim).
        text: (num_items, dim).
        text_weight: Factor of the text.
        form: See `Form`.

    Returns:
        (num_items, sum of both dims) float32.
    """
    if form == "unit":
        return unit_rows(np.hstack([unit_rows(visited), text_weight * text]))
    length = np.sqrt((visited**2).sum(1).mean())
    return np.hstack([visited / max(length, _TINY), text_weight * text])


def _neighbour_ndcg(space: Vectors, events: sp.csr_array, examples: Examples) -> float:
    queries: NDArray[np.float32] = (events @ space).astype(np.float32)
    return dense_ndcg(
        lambda users: queries[users] @ space.T, examples, len(space), exclude_history=True
    )
