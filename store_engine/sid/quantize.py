"""Dense tokens into codes: PCA, then k-means on every position by itself.

Positions are quantised in parallel, not residually: position l has a code space of its own.
Source: STORE and LAMIA, https://arxiv.org/abs/2409.07276.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from store_engine.errors import InputError
from store_engine.sid.kmeans import Vectors, kmeans

_LARGEST = 1e15  # of a component: squared distances stay finite in float32


@dataclass(frozen=True)
class ParallelQuantizer:
    """A projection and a codebook per position; assigns codes to dense tokens, old or new."""

    pca_mean: Vectors  # (num_codes, hidden_size)
    pca_components: Vectors  # (num_codes, pca_dim, hidden_size), rows orthonormal
    centroids: Vectors  # (num_codes, codebook_size, pca_dim)

    def project(self, vectors: Vectors) -> Vectors:
        """Projects (num_items, num_codes, hidden_size) -> (num_items, num_codes, pca_dim)."""
        centred = vectors - self.pca_mean
        return np.einsum("ind,npd->inp", centred, self.pca_components, optimize=True)

    def distances(self, vectors: Vectors) -> Vectors:
        """Computes squared distances to all centroids: (num_items, num_codes, codebook_size)."""
        projected = self.project(vectors)
        cross = np.einsum("inp,nkp->ink", projected, self.centroids, optimize=True)
        squares = (self.centroids**2).sum(-1)
        return (projected**2).sum(-1)[:, :, None] - 2 * cross + squares

    def assign(self, vectors: Vectors) -> NDArray[np.int32]:
        """Finds the nearest centroid of every position: (num_items, num_codes) int32."""
        return self.distances(vectors).argmin(-1).astype(np.int32)

    def lift(self) -> Vectors:
        """Centroids in the LLM's space: (num_codes, codebook_size, hidden_size)."""
        lifted = np.einsum("nkp,npd->nkd", self.centroids, self.pca_components, optimize=True)
        return (lifted + self.pca_mean[:, None]).astype(np.float32)


def fit_quantizer(
    vectors: Vectors, codebook_size: int, pca_dim: int, iterations: int, seed: int
) -> ParallelQuantizer:
    """Fits PCA and k-means per position.

    Args:
        vectors: (num_items, num_codes, hidden_size) float32 dense tokens.
        codebook_size: Codes per position.
        pca_dim: Dimensions kept; lowered to what the items span.
        iterations: Number of k-means iterations.
        seed: Seed of k-means.

    Raises:
        InputError: There are fewer items than codes, or a vector is not finite, or so large that
            squared distances are not.
    """
    num_items, num_codes, hidden_size = vectors.shape
    if codebook_size > num_items:
        raise InputError(
            f"tokenizer.codebook_size must not exceed the number of items, "
            f"got {codebook_size} > {num_items}"
        )
    is_bad = ~(np.abs(vectors) < _LARGEST).all((1, 2))  # a NaN is not smaller either
    if is_bad.any():
        raise InputError(
            f"the dense tokens of {int(is_bad.sum()):,} of {num_items:,} items, first of row "
            f"{int(is_bad.argmax())}, are not finite or above {_LARGEST:.0e}"
        )
    pca_dim = min(pca_dim, hidden_size, num_items)
    mean = vectors.mean(0)
    components = np.stack(
        [_principal_axes(vectors[:, n] - mean[n], pca_dim) for n in range(num_codes)]
    )
    projected = np.einsum("ind,npd->inp", vectors - mean, components, optimize=True)
    # the best of several starts where that takes no time; large catalogues are smooth enough
    num_starts = 5 if num_items < 1 << 16 else 1
    centroids = np.stack(
        [
            kmeans(projected[:, n], codebook_size, iterations, seed + n, num_starts)
            for n in range(num_codes)
        ]
    )
    return ParallelQuantizer(mean, components, centroids)


def _principal_axes(centred: Vectors, dim: int) -> Vectors:
    _, vectors = np.linalg.eigh(centred.T.astype(np.float64) @ centred)
    axes = vectors[:, ::-1][:, :dim].T
    # an axis' sign is arbitrary: its largest entry is made positive, so that runs can be compared
    largest = np.take_along_axis(axes, np.abs(axes).argmax(1, keepdims=True), 1)
    return np.ascontiguousarray(axes * np.sign(largest), dtype=np.float32)
