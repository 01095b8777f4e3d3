"""Collisions, items that share a SID: how they are resolved, and a report on the codes in use.

suffix    one more level numbers the items of a SID: every item has a SID of its own (default)
reassign  of the items of a SID the one closest to its centroids keeps it; the others move to the
          nearest free combination of codes
share     items keep sharing; a hit on a shared SID is then worth 1 / size of its group
"""

import itertools
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from store_engine.sid.clusters import rank_within

Codes = NDArray[np.int32]
Resolution = Literal["suffix", "reassign", "share"]

_CANDIDATES = 4  # codes per position that `reassign` tries, nearest first


def resolve_collisions(
    codes: Codes, codebook_size: int, distances: NDArray[np.float32], how: Resolution
) -> tuple[Codes, tuple[int, ...]]:
    """Gives every item its SID.

    Args:
        codes: (num_items, num_codes) int32 nearest codes.
        codebook_size: Codes per position.
        distances: (num_items, num_codes, codebook_size) squared distances to the centroids.
        how: "suffix", "reassign" or "share".

    Returns:
        SIDs (num_items, num_levels) int32 and the codebook size of each level.
    """
    sizes = (codebook_size,) * codes.shape[1]
    if how == "share":
        return codes, sizes
    if how == "reassign":
        codes = _reassign(codes, distances)
    ranks = _rank_within_sid(codes)
    if not ranks.any() and how == "reassign":
        return codes, sizes
    # reassign falls back to a suffix for items that found no free place nearby
    return np.column_stack([codes, ranks]), (*sizes, int(ranks.max()) + 1)


def sid_report(sids: Codes, codebook_sizes: tuple[int, ...], num_codes: int) -> dict[str, Any]:
    """Reports how the codes of a set of SIDs are used.

    Args:
        sids: (num_items, num_levels) int32.
        codebook_sizes: Codes per level.
        num_codes: Levels that describe the item; those behind are a collision suffix.

    Returns:
        num_items and num_unique_sids; num_collision_groups (groups of items whose descriptive
        codes are the same) and largest_group, 1 where there is none; and per level its
        codebook_size, the codes used (num_used, usage) and their perplexity (exp of the entropy:
        the effective number of codes).
    """
    _, counts = np.unique(sids[:, :num_codes], axis=0, return_counts=True)
    levels = []
    for level, size in enumerate(codebook_sizes):
        used = np.bincount(sids[:, level], minlength=size)
        shares = used[used > 0] / len(sids)
        levels.append(
            {
                "codebook_size": size,
                "num_used": int((used > 0).sum()),
                "usage": float((used > 0).mean()),
                "perplexity": float(np.exp(-(shares * np.log(shares)).sum())),
            }
        )
    return {
        "num_items": len(sids),
        "num_unique_sids": len(np.unique(sids, axis=0)),
        "num_collision_groups": int((counts > 1).sum()),
        "largest_group": int(counts.max()),
        "levels": levels,
    }


def describe(report: dict[str, Any]) -> str:
    """Writes a `sid_report`, or a `codebook_report`, in a few lines."""
    lines = [
        f"{report['num_unique_sids']:,} SIDs for {report['num_items']:,} items; "
        f"{report['num_collision_groups']:,} groups share their codes, "
        f"the largest has {report['largest_group']} items"
    ]
    for level, codes in enumerate(report["levels"]):
        lines.append(
            f"  level {level}: {codes['num_used']} of {codes['codebook_size']} codes used, "
            f"perplexity {codes['perplexity']:.1f}"
        )
    if len(report.get("redundancy", ())) > 1:
        others = np.array(report["redundancy"]) - np.eye(len(report["redundancy"]))
        explained = max(others.max(), 0)
        lines.append(f"  one level's code explains at most {explained:.1%} of another's")
    for length, share in enumerate(report.get("neighbours_share_prefix", ()), 1):
        lines.append(
            f"  {share:.1%} of the 10 nearest items share the first {length} codes, "
            f"{report['prefix_by_chance'][length - 1]:.1%} of any"
        )
    return "\n".join(lines)


def _rank_within_sid(codes: Codes) -> NDArray[np.int32]:
    """0, 1, 2, ... for the items of one SID, in row order."""
    _, group = np.unique(codes, axis=0, return_inverse=True)
    return rank_within(group.reshape(-1)).astype(np.int32)


def _reassign(codes: Codes, distances: NDArray[np.float32]) -> Codes:
    """Moves all but the closest item of each SID to the nearest free SID among near codes."""
    codes = codes.copy()
    cost = np.take_along_axis(distances, codes[:, :, None], 2)[:, :, 0].sum(1)
    order = np.argsort(cost, kind="stable")
    taken: set[tuple[int, ...]] = set()
    displaced = []
    for row in order.tolist():  # the item closest to its centroids keeps the SID
        sid = tuple(codes[row].tolist())
        if sid in taken:
            displaced.append(row)
        taken.add(sid)
    for row in displaced:
        near = np.argsort(distances[row], axis=1, kind="stable")[:, :_CANDIDATES]
        combinations = itertools.product(*near.tolist())
        by_cost = sorted(
            combinations, key=lambda sid: sum(distances[row, n, c] for n, c in enumerate(sid))
        )
        free = next((sid for sid in by_cost if sid not in taken), None)
        if free is not None:
            codes[row] = free
            taken.add(free)
    return codes
