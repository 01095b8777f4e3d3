"""k-means, by faiss: what every quantiser and the balanced clusters begin with."""

import numpy as np
import torch
from numpy.typing import NDArray

from store_engine.errors import InputError
from store_engine.extras import needs

Vectors = NDArray[np.float32]

_LARGEST = 1e15  # of a component: squared distances stay finite in float32


def kmeans(
    points: Vectors, num_clusters: int, iterations: int, seed: int, num_starts: int = 1
) -> Vectors:
    """Finds centroids.

    Args:
        points: (num_points, dim) float32, at least `num_clusters` of them.
        num_clusters: Number of centroids.
        iterations: Lloyd iterations of a start.
        seed: Seed of the first centroids.
        num_starts: The best of so many starts is taken.

    Returns:
        (num_clusters, dim) float32.
    """
    with needs("k-means"):
        import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())  # it has an OpenMP of its own
    clusters = faiss.Kmeans(
        points.shape[1],
        num_clusters,
        niter=iterations,
        nredo=num_starts,
        seed=seed,
        min_points_per_centroid=1,
        max_points_per_centroid=1 << 20,
    )
    clusters.train(np.ascontiguousarray(points, dtype=np.float32))
    return np.array(clusters.centroids, dtype=np.float32)


def nearest(
    points: Vectors, centroids: Vectors, num_nearest: int
) -> tuple[Vectors, NDArray[np.int64]]:
    """Finds the nearest centroids of every point, nearest first.

    Args:
        points: (num_points, dim) float32.
        centroids: (num_centroids, dim) float32.
        num_nearest: How many, at most num_centroids.

    Returns:
        Squared distances and indices, both (num_points, num_nearest).
    """
    with needs("finding the nearest codes"):
        import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    distances, indices = faiss.knn(
        np.ascontiguousarray(points, dtype=np.float32),
        np.ascontiguousarray(centroids, dtype=np.float32),
        num_nearest,
    )
    return distances, indices


def means(vectors: Vectors, labels: NDArray[np.integer], num_clusters: int) -> Vectors:
    """Computes the mean of every cluster, none of which is empty.

    Args:
        vectors: (num_items, dim) float32.
        labels: (num_items,) in [0, num_clusters).
        num_clusters: Number of clusters.

    Returns:
        (num_clusters, dim) float32.
    """
    order = np.argsort(labels, kind="stable")
    sizes = np.bincount(labels, minlength=num_clusters)
    begins = np.r_[0, np.cumsum(sizes)[:-1]]
    sums = np.add.reduceat(vectors[order].astype(np.float64), begins, axis=0)
    return (sums / sizes[:, None]).astype(np.float32)


def check_vectors(vectors: Vectors) -> None:
    """Refuses vectors whose squared distances are not finite.

    Args:
        vectors: (num_items, ...) of the items.

    Raises:
        InputError: A component is not finite or above 1e15; the message names the first row.
    """
    axes = tuple(range(1, vectors.ndim))
    is_bad = ~(np.abs(vectors) < _LARGEST).all(axes)  # a NaN is not smaller either
    if is_bad.any():
        raise InputError(
            f"the vectors of {int(is_bad.sum()):,} of {len(vectors):,} items, first of row "
            f"{int(is_bad.argmax())}, are not finite or above {_LARGEST:.0e}"
        )
