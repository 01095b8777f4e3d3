"""How good the codes of a catalogue are: in use, different from each other, near for near items."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from store_engine.sid.collisions import sid_report
from store_engine.sid.kmeans import Vectors, nearest
from store_engine.sid.quantizers.item_clusters import ItemClusters
from store_engine.sid.sid_table import SidTable

Codes = NDArray[np.int32]

_NEIGHBOURS, _SAMPLE = 10, 1000  # of an item; items whose neighbours are looked for


def codebook_report(table: SidTable, num_codes: int) -> dict[str, Any]:
    """Reports how the codes of a run are used.

    Args:
        table: The SIDs.
        num_codes: Levels that a quantiser made; those behind are a collision suffix. Of item
            clusters it is all levels but the last.

    Returns:
        What `sid_report` returns, and
        redundancy: (num_codes, num_codes) R2 of level l explained by the code of level m, see
            `redundancy`;
        prefix_by_chance: (num_levels - 1,) how many of two random items share their first 1, 2, ...
            codes, as a share;
        neighbours_share_prefix: the same of an item and its 10 nearest, where it was measured.
    """
    if isinstance(table.quantizer, ItemClusters):
        num_codes = table.sids.shape[1] - 1
    num_codes = min(num_codes, table.sids.shape[1])
    report = sid_report(table.sids, table.codebook_sizes, num_codes)
    report["redundancy"] = redundancy(table.sids[:, :num_codes]).tolist()
    report["prefix_by_chance"] = _prefix_by_chance(table.sids).tolist()
    if table.neighbours_share_prefix is not None:
        report["neighbours_share_prefix"] = table.neighbours_share_prefix.tolist()
    return report


def redundancy(codes: Codes) -> NDArray[np.float64]:
    """Computes how much the code of one level says about that of another.

    Entry (l, m) is the adjusted R2 of the regression of level l's code, written one-hot, on level
    m's: 1 - (1 - R2) (n - 1) / (n - k), for n items and k codes in use at level m, and R2 the share
    of the variance that is between the groups of items of one code m (Goodman and Kruskal's tau).
    About 0 where the levels are independent, 1 where m says l; 0 where nothing can be said: level l
    has one code, or k = n.

    Args:
        codes: (num_items, num_codes) int32.

    Returns:
        (num_codes, num_codes) float64, 1 on the diagonal.
    """
    num_items, num_codes = codes.shape
    explained = np.eye(num_codes)
    for target in range(num_codes):
        shares = np.bincount(codes[:, target]) / num_items
        variance = 1 - (shares**2).sum()  # of the one-hot code, all components together
        for other in range(num_codes):
            if other == target:
                continue
            sizes = np.bincount(codes[:, other])
            k = int((sizes > 0).sum())
            if variance == 0 or k == num_items:
                explained[target, other] = 0
                continue
            pairs, counts = np.unique(codes[:, [other, target]], axis=0, return_counts=True)
            within = 1 - (counts**2 / sizes[pairs[:, 0]]).sum() / num_items
            explained[target, other] = 1 - within / variance * (num_items - 1) / (num_items - k)
    return explained


def neighbours_share_prefix(vectors: Vectors, sids: Codes, seed: int) -> NDArray[np.float64]:
    """Measures on up to 1,000 items how many of their 10 nearest share their first codes.

    Args:
        vectors: (num_items, num_vectors, dim) float32, what the SIDs were made of.
        sids: (num_items, num_levels) int32.
        seed: Seed of the sample.

    Returns:
        (num_levels - 1,) shares: of 1 code, of 2, ...; 0 for a single item.
    """
    points = vectors.reshape(len(vectors), -1)
    rng, num_items = np.random.default_rng(seed), len(points)
    sample = np.sort(rng.choice(num_items, min(_SAMPLE, num_items), replace=False))
    _, found = nearest(points[sample], points, min(_NEIGHBOURS + 1, num_items))
    is_other = found != sample[:, None]
    is_other &= is_other.cumsum(1) <= _NEIGHBOURS  # the item itself can be missing among equals
    items, neighbours = np.repeat(sample, is_other.sum(1)), found[is_other]
    is_same = np.logical_and.accumulate(sids[items] == sids[neighbours], axis=1)
    return is_same[:, :-1].mean(0) if len(items) else np.zeros(sids.shape[1] - 1)


def _prefix_by_chance(sids: Codes) -> NDArray[np.float64]:
    """(num_levels - 1,) probability that two different items share their first 1, 2, ... codes."""
    num_items = len(sids)
    pairs = max(num_items * (num_items - 1), 1)
    chances = []
    for length in range(1, sids.shape[1]):
        _, counts = np.unique(sids[:, :length], axis=0, return_counts=True)
        chances.append(float((counts * (counts - 1)).sum()) / pairs)
    return np.array(chances)
