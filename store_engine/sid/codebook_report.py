"""How good the codes of a catalogue are: in use, different from each other, near for near items."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from store_engine.sid.collisions import sid_report
from store_engine.sid.kmeans import Vectors, nearest
from store_engine.sid.quantizers.item_clusters import ItemClusters
from store_engine.sid.sid_table import SidTable

Codes = NDArray[np.int32]

_MANY_SHARED, _LITTLE_USED = 0.3, 0.5  # shares of items and of codes that call for advice
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


def advice(table: SidTable, num_codes: int) -> list[str]:
    """Says what of the codes could be better chosen, and how.

    Args:
        table: The SIDs.
        num_codes: As for `codebook_report`.

    Returns:
        A line for each thing; none where nothing stands out. Item clusters are balanced by design.
    """
    if isinstance(table.quantizer, ItemClusters):
        return []
    codes = table.sids[:, :num_codes]
    _, groups, counts = np.unique(codes, axis=0, return_inverse=True, return_counts=True)
    share = float((counts[groups.reshape(-1)] > 1).mean())
    lines = []
    if share > _MANY_SHARED:
        lines.append(
            f"{share:.0%} of the items have the codes of another one, which the model cannot tell "
            f"apart by what they are: try a larger tokenizer.codebook_size or tokenizer.num_codes"
        )
    for level, size in enumerate(table.codebook_sizes[: codes.shape[1]]):
        num_used = len(np.unique(codes[:, level]))
        if num_used < _LITTLE_USED * size:
            lines.append(
                f"level {level} uses {num_used} of {size} codes: a smaller tokenizer.codebook_size "
                f"says as much"
            )
    return lines


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
