"""Training-free spaces: items as vectors, by their text and by what was visited with them.

A space of co-visits is the truncated SVD U S V^T of the normalised matrix plus a share of the
identity: U sqrt(S) are the items as sources, V sqrt(S) as targets, and their product is the
smoothed vote. The SVD is randomised (Halko, Martinsson, Tropp, SIAM Review 2011): its time and
memory grow with items x rank, up to 10^6 items.
"""

from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from store_engine.collaborative.co_visits import normalised
from store_engine.data.catalog import Catalog

Vectors = NDArray[np.float32]

_SELF = 0.3  # share of the identity: an item's vectors also stand for the item itself
# of the randomised SVD. Measured on Office: 2 are as good as the exact SVD, 0 clearly worse
_POWER_ITERATIONS = 3


class Space(NamedTuple):
    """Items as vectors, in both roles; a large product of source and target is a strong vote."""

    sources: Vectors  # (num_items, dim)
    targets: Vectors  # (num_items, dim)


def text_space(catalog: Catalog, dim: int, seed: int = 0) -> Vectors:
    """Places items by their words: TF-IDF, then a truncated SVD.

    Args:
        catalog: Items and their text; all fields count as one text.
        dim: Components, lowered to what items and words span.
        seed: Seed of the SVD.

    Returns:
        (num_items, at most dim) unit rows, largest component first; zeros where an item shares
        no word with another.
    """
    words = word_weights(catalog)
    if not words.shape[1]:
        return np.zeros((catalog.num_items, 1), dtype=np.float32)
    left, values, _ = _svd(words, dim, seed)
    placed: Vectors = left * values
    return unit_rows(placed)


def word_weights(catalog: Catalog) -> sp.csr_array:
    """Weighs the words that at least two items have by TF-IDF.

    Args:
        catalog: Items and their text; all fields count as one text.

    Returns:
        (num_items, num_words) float32, rows of length 1 or 0.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer  # here: it takes a second to load

    texts = [" ".join(fields) for fields in zip(*catalog.fields.values(), strict=True)]
    vectorizer = TfidfVectorizer(
        sublinear_tf=True, min_df=2, token_pattern=r"(?u)\w+", dtype=np.float32
    )
    try:
        return sp.csr_array(vectorizer.fit_transform(texts))
    except ValueError:  # its way to say that no word is in two items
        return sp.csr_array((len(texts), 0), dtype=np.float32)


def co_visit_space(
    counts: sp.csr_array,
    frequency: NDArray[np.integer],
    smoothing: float,
    rank: int,
    *,
    symmetric: bool,
    seed: int = 0,
) -> Space:
    """Places items by what was visited with them.

    Args:
        counts: (num_items, num_items) directed co-visits.
        frequency: (num_items,) events of every item.
        smoothing: Added to the frequencies.
        rank: Components, lowered to the number of items.
        symmetric: Count both ways; else only what came later is a target.
        seed: Seed of the SVD.

    Returns:
        Vectors of (num_items, at most rank), largest component first. The symmetric space's two
        sides are equal but for components that the matrix turns round.
    """
    matrix = normalised(counts + counts.T if symmetric else counts, frequency, smoothing)
    shifted = matrix + _SELF * sp.eye_array(matrix.shape[0], format="csr")
    left, values, right = _svd(sp.csr_array(shifted, dtype=np.float32), rank, seed)
    root = np.sqrt(values)
    return Space(left * root, right * root)


def unit_rows(vectors: Vectors) -> Vectors:
    """Divides every row by its length; a row of zeros stays."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: Vectors = (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32)
    return unit


def _svd(matrix: sp.csr_array, rank: int, seed: int) -> tuple[Vectors, Vectors, Vectors]:
    """Truncated SVD: (rows, rank), (rank,), (columns, rank); signs are the same in every run."""
    from sklearn.utils.extmath import randomized_svd

    left, values, right = randomized_svd(
        matrix, min(rank, *matrix.shape), n_iter=_POWER_ITERATIONS, random_state=seed
    )
    return left, values, np.ascontiguousarray(right.T)
