"""Residual k-means: each level's codebook quantises what the levels above it leave.

An item's vectors are averaged into one, and its codes go from coarse to fine.
Source: the form of TIGER's SIDs (https://arxiv.org/abs/2305.05065) with k-means in the place of
the RQ-VAE, as OneRec has it (https://arxiv.org/abs/2502.18965).
"""

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from store_engine.files.npz import ArrayForm
from store_engine.sid.kmeans import Vectors, kmeans
from store_engine.sid.quantizers.quantizer import (
    Codes,
    FitSettings,
    Quantizer,
    check_fit,
    num_kmeans_starts,
    principal_axes,
    squared_distances,
)


@dataclass(frozen=True)
class ResidualQuantizer(Quantizer):
    """A projection of the mean vector, and a codebook per level."""

    mean: Vectors  # (dim,)
    components: Vectors  # (pca_dim, dim), rows orthonormal
    centroids: Vectors  # (num_codes, codebook_size, pca_dim)

    prefix = "residual_"
    forms: ClassVar = {
        "mean": ArrayForm("f", 1, True),
        "components": ArrayForm("f", 2, True),
        "centroids": ArrayForm("f", 3, True),
    }

    def __post_init__(self) -> None:
        """Checks that the arrays fit each other.

        Raises:
            ValueError: They do not.
        """
        if self.components.shape != (self.centroids.shape[2], len(self.mean)):
            raise ValueError("mean, components and centroids do not fit each other")

    @classmethod
    def fit(cls, vectors: Vectors, settings: FitSettings) -> Self:
        """Fits PCA, then k-means on the residuals of the levels above."""
        check_fit(vectors, settings)
        pooled = vectors.mean(1)
        mean = pooled.mean(0)
        components = principal_axes(pooled - mean, min(settings.pca_dim, *pooled.shape))
        points = (pooled - mean) @ components.T
        return cls(mean, components, residual_codebooks(points, settings))

    def distances(self, vectors: Vectors) -> Vectors:
        """Computes squared distances along the item's own codes."""
        return residual_codes(self._project(vectors), self.centroids)[1]

    def encode(self, vectors: Vectors) -> Codes:
        """Finds level by level the nearest centroid: (num_items, num_codes) int32."""
        return residual_codes(self._project(vectors), self.centroids)[0]

    def lift(self) -> Vectors:
        """Centroids in the space of the vectors; the levels' sum is the item."""
        lifted = self.centroids @ self.components
        lifted[0] += self.mean
        return lifted

    def _project(self, vectors: Vectors) -> Vectors:
        return (vectors.mean(1) - self.mean) @ self.components.T


def residual_codebooks(points: Vectors, settings: FitSettings) -> Vectors:
    """Fits k-means to points, to what it leaves of them, and so on.

    Args:
        points: (num_items, dim) float32.
        settings: Number and size of the codebooks.

    Returns:
        (num_codes, codebook_size, dim) float32.
    """
    codebooks: list[Vectors] = []
    size, iterations = settings.codebook_size, settings.iterations
    residuals, num_starts = points, num_kmeans_starts(len(points))
    for level in range(settings.num_codes):
        seed = settings.seed + level
        codebooks.append(kmeans(residuals, size, iterations, seed, num_starts))
        codes, _ = residual_codes(residuals, codebooks[-1][None])
        residuals = residuals - codebooks[-1][codes[:, 0]]
    return np.stack(codebooks)


def residual_codes(points: Vectors, codebooks: Vectors) -> tuple[Codes, Vectors]:
    """Quantises points level by level.

    Args:
        points: (num_items, dim) float32.
        codebooks: (num_codes, codebook_size, dim) float32.

    Returns:
        Codes (num_items, num_codes) int32, and the squared distances that they were chosen by
        (num_items, num_codes, codebook_size).
    """
    codes, distances, residuals = [], [], points
    for codebook in codebooks:
        distances.append(squared_distances(residuals[:, None], codebook[None])[:, 0])
        codes.append(distances[-1].argmin(-1).astype(np.int32))
        residuals = residuals - codebook[codes[-1]]
    return np.stack(codes, 1), np.stack(distances, 1)
