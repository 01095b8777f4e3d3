"""The largest votes of every item: of dense blocks, of products of vectors, of a sparse matrix."""

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray

from store_engine.extras import needs

Vectors = NDArray[np.float32]

_BLOCK_VOTES = 1 << 23  # votes that are dense at once
# items above which an inverted file is searched: all products of 10^6 items would take hours
_MAX_EXACT = 100_000
_BLOCK_SOURCES = 1 << 16  # sources that are searched at once
_PROBES = 32  # lists of the inverted file that a source is compared with


class TopVotes:
    """Gathers the largest votes of every item, block by block, into a sparse matrix.

    Args:
        num_items: Size of the catalogue.
        k: Largest votes kept per item; an item's vote for itself and votes of 0 or less are not.
    """

    def __init__(self, num_items: int, k: int) -> None:
        self._num_items, self._k = num_items, min(k, num_items)
        self._blocks: list[sp.csr_array] = []
        self._num_rows = 0

    def add(self, votes: torch.Tensor) -> None:
        """Takes the next (num_rows, num_items) float32 votes, which it changes."""
        own = torch.arange(len(votes))
        votes[own, self._num_rows + own] = 0
        scores, targets = (part.numpy() for part in votes.topk(self._k, sorted=False))
        is_kept = scores > 0
        indptr = np.concatenate([[0], np.cumsum(is_kept.sum(1))])
        arrays = (scores[is_kept], targets[is_kept].astype(np.int32), indptr)
        self._blocks.append(sp.csr_array(arrays, shape=(len(votes), self._num_items)))
        self._num_rows += len(votes)

    def matrix(self) -> sp.csr_array:
        """All votes taken: (num_items, num_items) float32."""
        matrix = sp.csr_array(sp.vstack(self._blocks, format="csr"))
        matrix.sort_indices()
        return matrix


def top_products(sources: Vectors, targets: Vectors, k: int) -> sp.csr_array:
    """Finds for every source the targets of the largest positive products.

    Exact up to 100,000 items; above, by an inverted file that looks at some of the targets.

    Args:
        sources: (num_items, dim).
        targets: (num_items, dim).
        k: Kept per item.

    Returns:
        (num_items, num_items) float32 without a diagonal.
    """
    num_items = len(sources)
    if num_items > _MAX_EXACT:
        return _searched(sources, targets, k)
    top = TopVotes(num_items, k)
    columns = torch.from_numpy(targets).T
    block = max(1, _BLOCK_VOTES // max(1, num_items))
    for begin in range(0, num_items, block):
        top.add(torch.from_numpy(sources[begin : begin + block]) @ columns)
    return top.matrix()


def _searched(sources: Vectors, targets: Vectors, k: int) -> sp.csr_array:
    """Searches an inverted file: 4 sqrt(num_items) lists, of which the nearest are looked at."""
    with needs(f"a search among more than {_MAX_EXACT:,} items"):
        import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())  # it has an OpenMP of its own
    num_items, dim = targets.shape
    lists = faiss.IndexFlatIP(dim)
    index = faiss.IndexIVFFlat(lists, dim, int(4 * num_items**0.5), faiss.METRIC_INNER_PRODUCT)
    index.nprobe = _PROBES
    index.train(targets)
    index.add(targets)
    blocks = []
    for begin in range(0, num_items, _BLOCK_SOURCES):
        block = np.ascontiguousarray(sources[begin : begin + _BLOCK_SOURCES])
        scores, found = index.search(block, k + 1)
        rows = np.arange(begin, begin + len(block))[:, None]
        is_vote = (found >= 0) & (found != rows) & (scores > 0)
        is_vote &= is_vote.cumsum(1) <= k
        indptr = np.concatenate([[0], np.cumsum(is_vote.sum(1))])
        arrays = (scores[is_vote], found[is_vote].astype(np.int32), indptr)
        blocks.append(sp.csr_array(arrays, shape=(len(block), num_items)))
    matrix = sp.csr_array(sp.vstack(blocks, format="csr"))
    matrix.sort_indices()
    return matrix


def top_entries(matrix: sp.csr_array, k: int) -> sp.csr_array:
    """Keeps the largest positive entries of every row, without the diagonal, as float32.

    Args:
        matrix: (num_rows, num_columns).
        k: Kept per row; of equals the lower column.
    """
    rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    is_vote = (matrix.data > 0) & (matrix.indices != rows)
    rows, columns, data = rows[is_vote], matrix.indices[is_vote], matrix.data[is_vote]
    # one sort by row, then by the share of the largest vote: three times as fast as by two keys
    order = np.argsort(rows - data / (2 * data.max(initial=1e-300)), kind="stable")
    begins = np.searchsorted(rows, np.arange(matrix.shape[0]))
    kept = np.sort(order[np.arange(len(order)) - begins[rows] < k])
    entries = (data[kept].astype(np.float32), (rows[kept], columns[kept]))
    top = sp.csr_array(sp.coo_array(entries, shape=matrix.shape))
    top.sort_indices()
    return top


def votes_at(votes: sp.csr_array, pattern: sp.csr_array) -> NDArray[np.float32]:
    """Looks up votes at the entries of another matrix.

    Args:
        votes: (num_items, num_items), columns ascending within a row.
        pattern: The same.

    Returns:
        (pattern.nnz,) float32, 0 where there is no vote.
    """
    found = np.zeros(pattern.nnz, dtype=np.float32)
    for begin in range(0, pattern.shape[0], _BLOCK_SOURCES):
        rows = slice(begin, begin + _BLOCK_SOURCES)
        wanted, have = _places(pattern, rows), _places(votes, rows)
        at = np.searchsorted(have, wanted)
        is_vote = at < len(have)
        is_vote[is_vote] = have[at[is_vote]] == wanted[is_vote]
        own = found[pattern.indptr[begin] :]
        own[: len(at)][is_vote] = votes.data[votes.indptr[begin] + at[is_vote]]
    return found


def _places(matrix: sp.csr_array, rows: slice) -> NDArray[np.int64]:
    """Numbers the entries of some rows by their place in the dense matrix, ascending."""
    begins = matrix.indptr[rows.start : rows.stop + 1]
    row = np.repeat(np.arange(len(begins) - 1, dtype=np.int64), np.diff(begins))
    places: NDArray[np.int64] = row * matrix.shape[1] + matrix.indices[begins[0] : begins[-1]]
    return places


def votes_by_rank(space: Vectors, k: int, num_old: int) -> sp.csr_array:
    """Finds which items have new ones among their nearest.

    Args:
        space: (num_items, dim) unit rows.
        k: Nearest items, old and new, that an item may vote for.
        num_old: Rows from there on are new.

    Returns:
        (num_items, num_items) float32: 1 / sqrt(rank), the nearest has rank 1; only for new items.
    """
    num_items = len(space)
    k = min(k, num_items - 1)
    votes = (1 / np.sqrt(1 + np.arange(k))).astype(np.float32)
    parts: list[tuple[NDArray[np.int64], ...]] = []
    block = max(1, _BLOCK_VOTES // num_items)
    for begin in range(0, num_items, block):
        likeness = space[begin : begin + block] @ space.T
        own = np.arange(len(likeness))
        likeness[own, begin + own] = -np.inf
        near = np.argpartition(-likeness, k - 1, axis=1)[:, :k]
        order = np.argsort(-np.take_along_axis(likeness, near, 1), axis=1, kind="stable")
        near = np.take_along_axis(near, order, 1)
        row, rank = np.nonzero(near >= num_old)
        parts.append((row + begin, near[row, rank], rank))
    rows, columns, ranks = (np.concatenate(part) for part in zip(*parts, strict=True))
    matrix = sp.csr_array((votes[ranks], (rows, columns)), shape=(num_items, num_items))
    matrix.sort_indices()
    return matrix
