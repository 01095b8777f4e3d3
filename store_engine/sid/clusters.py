"""Balanced clusters, and SIDs whose last level is the item itself.

k-means alone makes clusters of 1 item and of 1,000; a level of a SID wants them alike. So the items
are assigned under a capacity: in rounds, every item without a cluster proposes to the nearest
centroid that has room, and a centroid takes the nearest of its proposals until it is full.
"""

import numpy as np
from numpy.typing import NDArray

from store_engine.errors import InputError
from store_engine.sid.kmeans import Vectors, check_vectors, kmeans, means, nearest

Codes = NDArray[np.int32]

_MEAN_CLUSTER = 1024  # items of a last cluster on average, at most
_MIN_CLUSTER = 8  # items of a cluster on average, at least
_SLACK = 1.35  # the largest cluster in means (measured: 128 clusters of <= 128 for 12,101 items)
MAX_CODEBOOK_SIZE, _MAX_LEVELS = 1 << 16, 16  # of the core's trie
_KMEANS_ITERATIONS, _BALANCED_ITERATIONS = 10, 4
_CANDIDATES = 16  # nearest centroids that are looked up at once


def balanced_clusters(
    vectors: Vectors, num_clusters: int, max_size: int, seed: int
) -> NDArray[np.int32]:
    """Clusters items so that no cluster is empty and none larger than `max_size`.

    Args:
        vectors: (num_items, dim) float32, finite.
        num_clusters: In [1, num_items].
        max_size: Items of the largest cluster, at least num_items / num_clusters.
        seed: Seed of k-means.

    Returns:
        (num_items,) int32 in [0, num_clusters), every cluster in use.

    Raises:
        ValueError: The bounds cannot be met.
    """
    num_items = len(vectors)
    if not 1 <= num_clusters <= num_items:
        raise ValueError(f"num_clusters must be in [1, {num_items}] (items), got {num_clusters}")
    if max_size * num_clusters < num_items:
        raise ValueError(
            f"{num_clusters} clusters of at most {max_size} do not hold {num_items} items"
        )
    if num_clusters == 1:
        return np.zeros(num_items, dtype=np.int32)
    centroids = kmeans(vectors, num_clusters, _KMEANS_ITERATIONS, seed)
    room = np.full(num_clusters, max_size)
    labels = _fill_empty(*_assign(vectors, centroids, room), num_clusters)
    for _ in range(_BALANCED_ITERATIONS):
        centroids = means(vectors, labels, num_clusters)
        labels = _fill_empty(*_assign(vectors, centroids, room), num_clusters)
    return labels


def item_sids(vectors: Vectors, codebook_size: int, seed: int) -> tuple[Codes, tuple[int, ...]]:
    """Gives every item a SID of clusters within clusters, the item's index in the last.

    There are as few levels of clusters as bring a cluster down to 1,024 items on average. A cluster
    has at most 1.35 times the items it would have if all within its parent were alike, and at
    least 8 on average. The items of a cluster are numbered by row. The last level's codebook has
    room for at least as many new items as the largest cluster has.

    Args:
        vectors: (num_items, dim) float32.
        codebook_size: Clusters within a cluster, lowered for a small catalogue.
        seed: Seed of k-means.

    Returns:
        SIDs (num_items, num_levels) int32, all different, and the codebook size of each level.

    Raises:
        InputError: A vector is not finite, or there are too few codes for so many items.
    """
    check_vectors(vectors)
    depth = num_cluster_levels(len(vectors), codebook_size)
    sids = np.zeros((len(vectors), depth), dtype=np.int32)
    for level in range(depth):
        groups = prefix_groups(sids[:, :level])
        order = np.argsort(groups, kind="stable")
        for rows in np.split(order, np.cumsum(np.bincount(groups))[:-1]):
            num_clusters = min(codebook_size, max(1, len(rows) // _MIN_CLUSTER))
            max_size = int(np.ceil(_SLACK * len(rows) / num_clusters))
            sids[rows, level] = balanced_clusters(vectors[rows], num_clusters, max_size, seed)
    sizes = (int(size) for size in sids.max(0) + 1)
    sids, last_size = with_item_level(sids)
    return sids, (*sizes, last_size)


def with_item_level(prefixes: Codes) -> tuple[Codes, int]:
    """Numbers the items of every cluster by row, behind the codes of the cluster.

    Args:
        prefixes: (num_items, num_levels - 1) int32, of `item_sids` or of the user's own.

    Returns:
        SIDs (num_items, num_levels) int32, all different, and the last level's codebook size.

    Raises:
        InputError: A cluster has more items than a level has codes.
    """
    ranks = rank_within(prefix_groups(prefixes)).astype(np.int32)
    if (largest := int(ranks.max()) + 1) > MAX_CODEBOOK_SIZE:
        codes = tuple(prefixes[int(ranks.argmax())].tolist())
        raise InputError(
            f"{largest:,} items have the codes {codes}: at most {MAX_CODEBOOK_SIZE:,} can"
        )
    return np.column_stack([prefixes, ranks]), roomy_size(largest)


def roomy_size(largest: int) -> int:
    """Returns the last level's codebook size, which leaves every cluster room for new items.

    Args:
        largest: Items of the largest cluster.
    """
    return min(1 << (2 * largest - 1).bit_length(), MAX_CODEBOOK_SIZE)


def prefix_centres(vectors: Vectors, sids: Codes) -> tuple[Codes, Vectors]:
    """Computes the centres of the last clusters.

    Args:
        vectors: (num_items, dim) float32.
        sids: (num_items, num_levels) int32, of `item_sids`.

    Returns:
        The clusters' codes (num_clusters, num_levels - 1) int32, ascending, and the means of their
        items (num_clusters, dim) float32.
    """
    prefixes, labels = np.unique(sids[:, :-1], axis=0, return_inverse=True)
    return prefixes, means(vectors, labels.reshape(-1), len(prefixes))


def assign_new(
    vectors: Vectors, prefixes: Codes, centres: Vectors, sids: Codes, last_size: int
) -> Codes:
    """Gives SIDs to new items: the nearest cluster with a free last code, its lowest free code.

    Where a cluster has less room than items that are nearest to it, the nearest of them get it.

    Args:
        vectors: (num_new, dim) float32 in the space of `centres`.
        prefixes: (num_clusters, num_levels - 1) int32, of `prefix_centres`.
        centres: (num_clusters, dim) float32.
        sids: (num_items, num_levels) int32, the SIDs in use.
        last_size: Codebook size of the last level.

    Returns:
        (num_new, num_levels) int32, different from each other and from `sids`.

    Raises:
        InputError: A vector is not finite, or all clusters together have too little room.
    """
    check_vectors(vectors)
    # one number per cluster, by which the SIDs in use are found; others are of no cluster here
    groups = prefix_groups(np.concatenate([prefixes, sids[:, :-1]]))
    cluster_of = np.full(groups.max() + 1, -1)
    cluster_of[groups[: len(prefixes)]] = np.arange(len(prefixes))
    cluster, codes = cluster_of[groups[len(prefixes) :]], sids[:, -1]
    cluster, codes = cluster[cluster >= 0], codes[cluster >= 0]
    room = last_size - np.bincount(cluster, minlength=len(prefixes))
    if room.sum() < len(vectors):
        raise InputError(
            f"{len(vectors):,} new items do not fit: the clusters of the SIDs have room for "
            f"{room.sum():,} more; train anew with them in the catalogue"
        )
    labels, _ = _assign(vectors, centres, room)
    ranks, last = rank_within(labels), np.empty(len(vectors), dtype=np.int32)
    for label in np.unique(labels).tolist():
        is_here = labels == label
        free = np.setdiff1d(np.arange(last_size), codes[cluster == label])
        last[is_here] = free[ranks[is_here]]
    return np.column_stack([prefixes[labels], last]).astype(np.int32)


def rank_within(groups: NDArray[np.integer], keys: Vectors | None = None) -> NDArray[np.int64]:
    """Numbers the members of every group 0, 1, 2, ..., by ascending key, equals by position.

    Args:
        groups: (n,) the group of each.
        keys: (n,); None: by position.
    """
    order = np.argsort(groups, kind="stable") if keys is None else np.lexsort((keys, groups))
    begins = np.r_[0, np.flatnonzero(np.diff(groups[order])) + 1]
    sizes = np.diff(np.r_[begins, len(groups)])
    ranks = np.empty(len(groups), dtype=np.int64)
    ranks[order] = np.arange(len(groups)) - np.repeat(begins, sizes)
    return ranks


def num_cluster_levels(num_items: int, codebook_size: int) -> int:
    """Returns the levels of clusters that `item_sids` makes; see there for the bounds.

    Raises:
        InputError: There would be too many.
    """
    for depth in range(1, _MAX_LEVELS):
        if num_items <= _MEAN_CLUSTER * codebook_size**depth:
            return depth
    raise InputError(
        f"tokenizer.codebook_size = {codebook_size} is too small for {num_items:,} items: "
        f"{_MAX_LEVELS - 1} levels of clusters leave more than {_MEAN_CLUSTER:,} items in each"
    )


def prefix_groups(prefixes: Codes) -> NDArray[np.int64]:
    """Returns the index (num_items,) of each item's prefix among the sorted prefixes."""
    if prefixes.shape[1] == 0:
        return np.zeros(len(prefixes), dtype=np.int64)
    return np.unique(prefixes, axis=0, return_inverse=True)[1].reshape(-1)


def _assign(
    vectors: Vectors, centroids: Vectors, room: NDArray[np.integer]
) -> tuple[NDArray[np.int32], Vectors]:
    """Assigns items to near centroids, at most `room` to each.

    Args:
        vectors: (num_items, dim) float32.
        centroids: (num_clusters, dim) float32.
        room: (num_clusters,) capacities; their sum is at least num_items.

    Returns:
        Labels (num_items,) int32, and squared distances to the centroids (num_items,).
    """
    room = room.copy()
    labels = np.full(len(vectors), -1, dtype=np.int32)
    costs = np.zeros(len(vectors), dtype=np.float32)
    waiting = np.arange(len(vectors))
    while len(waiting):
        is_open = np.flatnonzero(room > 0)
        num_nearest = min(_CANDIDATES, len(is_open))
        distances, candidates = nearest(vectors[waiting], centroids[is_open], num_nearest)
        candidates = is_open[candidates]
        looking = np.arange(len(waiting))  # those of `waiting` that still have a candidate
        while len(looking):
            has_room = room[candidates[looking]] > 0
            looking = looking[has_room.any(1)]
            choice = has_room[has_room.any(1)].argmax(1)
            wanted, cost = candidates[looking, choice], distances[looking, choice]
            is_taken = rank_within(wanted, cost) < room[wanted]
            taken = waiting[looking[is_taken]]
            labels[taken], costs[taken] = wanted[is_taken], cost[is_taken]
            room -= np.bincount(wanted[is_taken], minlength=len(room))
            looking = looking[~is_taken]
        waiting = waiting[labels[waiting] < 0]
    return labels, costs


def _fill_empty(labels: NDArray[np.int32], costs: Vectors, num_clusters: int) -> NDArray[np.int32]:
    """Gives each empty cluster the item that is farthest from its centroid, not the nearest one."""
    empty = np.flatnonzero(np.bincount(labels, minlength=num_clusters) == 0)
    movable = np.flatnonzero(rank_within(labels, costs) > 0)
    farthest = movable[np.argsort(-costs[movable], kind="stable")][: len(empty)]
    labels = labels.copy()
    labels[farthest] = empty
    return labels
