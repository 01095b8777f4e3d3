"""The terms of evidence: sparse item-item matrices, each a different reading of the same events.

Every term keeps its largest votes per item and is scaled so that an item's tenth largest vote is 1
on average: weights of terms can be compared.
"""

import numpy as np
import scipy.sparse as sp

from store_engine.collaborative.co_visits import Counts
from store_engine.collaborative.evidence import Mix
from store_engine.collaborative.item_space import best_mix, join
from store_engine.collaborative.regression import next_item_regression
from store_engine.collaborative.spaces import Space, co_visit_space, text_space
from store_engine.collaborative.top_votes import top_entries, top_products
from store_engine.data.catalog import Catalog
from store_engine.data.split import Examples

_TEXT_DIM = 128
_BACKWARD = 0.5  # weight of the symmetric graph beside the directed one
_TRANSITION_SMOOTHING = 2.0  # added to a source's sum of co-visits
_PLACE = 10  # the vote that is 1 after scaling


def build_terms(
    counts: Counts, catalog: Catalog, mix: Mix | Examples, seed: int
) -> tuple[dict[str, sp.csr_array], Mix]:
    """Builds every term.

    Args:
        counts: Of the events.
        catalog: Items and their text.
        mix: Of the space whose neighbours vote, or the validation users by whom it is chosen.
        seed: Seed of the SVDs and of the sample of users.

    Returns:
        Name -> (num_items, num_items) float32 votes, and the mix that was used. Names:
        `neighbours` in the space of text and co-visits, `text` alone, `directed` low-rank space,
        `graph` of full rank, `co_visitation` the baseline's own, `transitions` what share came
        next, `regression` where the catalogue is small enough.
    """
    settings, num_items = counts.settings, counts.num_items
    k = settings.neighbours

    def space(symmetric: bool) -> Space:
        return co_visit_space(
            counts.directed,
            counts.frequency,
            settings.smoothing,
            settings.rank,
            symmetric=symmetric,
            seed=seed,
        )

    visited, text = space(True).sources, text_space(catalog, _TEXT_DIM, seed)
    if isinstance(mix, Examples):
        items, mix, _ = best_mix(visited, text, mix, seed)
    else:
        items = join(visited, text, mix)
    directed = space(False)
    terms = {
        "neighbours": top_products(items, items, k),
        "text": top_products(text, text, k),
        "directed": top_products(directed.sources, directed.targets, k),
        "graph": top_entries(counts.normalised(counts.directed + _BACKWARD * counts.symmetric), k),
        "co_visitation": top_entries(counts.normalised(counts.symmetric), k),
        "transitions": top_entries(_shares(counts.directed), k),
    }
    if num_items <= settings.max_regression_items:
        terms["regression"] = next_item_regression(counts.train, num_items, k)
    return {name: scaled(term) for name, term in terms.items()}, mix


def scaled(votes: sp.csr_array) -> sp.csr_array:
    """Scales votes so that an item's tenth largest is 1 on average, of items that have as many."""
    best = top_entries(votes, _PLACE)
    lengths = np.diff(best.indptr)
    if not best.nnz:
        return votes
    has_place = lengths == lengths.max()
    smallest = np.minimum.reduceat(best.data, best.indptr[:-1][lengths > 0])
    unit = smallest[has_place[lengths > 0]].mean()
    return sp.csr_array(votes / np.float32(unit))


def _shares(directed: sp.csr_array) -> sp.csr_array:
    """Divides by the smoothed sum of what came after an item."""
    sums = np.asarray(directed.sum(axis=1)).ravel() + _TRANSITION_SMOOTHING
    data = directed.data / np.repeat(sums, np.diff(directed.indptr))
    return sp.csr_array((data, directed.indices, directed.indptr), shape=directed.shape)
