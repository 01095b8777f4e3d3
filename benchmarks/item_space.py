"""The training-free space of a data set: what is bought together, beside what reads alike.

Items visited within 5 events of each other (training events only), normalised by popularity, as an
SVD; beside it an SVD of the text's TF-IDF.
"""

import re
from collections import Counter

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.sparse.linalg import svds

from store_engine.data.catalog import Catalog
from store_engine.data.histories import Histories

_WINDOW = 5
_SMOOTHING = 10.0
_SELF = 0.3  # of an item beside its neighbours
_TEXT_WEIGHT = 0.7


def item_space(
    catalog: Catalog, train: Histories, hidden_size: int = 128, *, is_unit: bool = True
) -> NDArray[np.float32]:
    """Builds [3/4 of the columns co-visits || 1/4 text], the text times .7.

    Args:
        catalog: The items and their text.
        train: Training events.
        hidden_size: Columns.
        is_unit: Both parts and the rows of unit length; else frequent items have longer co-visits.

    Returns:
        (num_items, hidden_size) float32; a part with fewer dimensions ends in zeros.
    """
    num_text = hidden_size // 4
    visits = _svd(co_visits(train, catalog.num_items), hidden_size - num_text, 0.5)
    words = _TEXT_WEIGHT * _unit(_svd(tf_idf(catalog), num_text, 1.0))
    if is_unit:
        return _unit(np.hstack([_unit(visits), words]))
    length = np.sqrt((visits**2).sum(1).mean())
    space: NDArray[np.float32] = np.hstack([visits / length, words])
    return space


def co_visits(train: Histories, num_items: int) -> sp.csr_matrix:
    """Counts pairs within the window both ways, per popularity, and adds .3 on the diagonal."""
    users = np.repeat(np.arange(train.num_users), np.diff(train.offsets))
    pairs = sp.csr_matrix((num_items, num_items))
    for step in range(1, _WINDOW + 1):
        is_pair = (users[:-step] == users[step:]) & (train.rows[:-step] != train.rows[step:])
        a, b = train.rows[:-step][is_pair], train.rows[step:][is_pair]
        weight = np.full(len(a), (_WINDOW + 1 - step) / _WINDOW)
        pairs += sp.csr_matrix((weight, (a, b)), shape=pairs.shape)
    frequency = np.bincount(train.rows, minlength=num_items)
    scale = sp.diags(1 / np.sqrt(frequency + _SMOOTHING))
    return (scale @ (pairs + pairs.T) @ scale + _SELF * sp.identity(num_items)).tocsr()


def tf_idf(catalog: Catalog) -> sp.csr_matrix:
    """(num_items, num_words) of the words that at least two items have, rows of unit length."""
    counts = [
        Counter(re.findall(r"\w+", " ".join(texts).lower()))
        for texts in zip(*catalog.fields.values(), strict=True)
    ]
    num_items_with = Counter(word for count in counts for word in count)
    columns = {word: i for i, word in enumerate(w for w, n in num_items_with.items() if n >= 2)}
    cells = [
        (row, columns[word], (1 + np.log(n)) * np.log(len(counts) / num_items_with[word]))
        for row, count in enumerate(counts)
        for word, n in count.items()
        if word in columns
    ]
    rows, places, weights = (np.array(x) for x in zip(*cells, strict=True))
    shape = (len(counts), len(columns))
    matrix = sp.csr_matrix((weights, (rows.astype(int), places.astype(int))), shape=shape)
    lengths = np.sqrt(np.asarray(matrix.multiply(matrix).sum(1)).ravel())
    return (sp.diags(1 / np.where(lengths > 0, lengths, 1)) @ matrix).tocsr()


def _svd(matrix: sp.csr_matrix, num_columns: int, power: float) -> NDArray[np.float32]:
    """(num_rows, num_columns) left vectors times S^power, largest first, zeros beyond the rank."""
    rank = min(num_columns, min(matrix.shape) - 1)
    left, values, _ = svds(matrix.astype(np.float64), k=rank, rng=0)
    order = np.argsort(-values)
    found = left[:, order] * values[order] ** power
    return np.pad(found, ((0, 0), (0, num_columns - rank))).astype(np.float32)


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths: NDArray[np.float32] = np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows / np.maximum(lengths, 1e-12)).astype(np.float32)
