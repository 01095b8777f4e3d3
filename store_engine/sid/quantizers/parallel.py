"""Dense tokens into codes: PCA, then k-means on every position by itself.

Positions are quantised in parallel, not residually: position l has a code space of its own.
Source: STORE and LAMIA, https://arxiv.org/abs/2409.07276.
"""

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from store_engine.errors import InputError
from store_engine.files.npz import ArrayForm
from store_engine.sid.kmeans import Vectors, kmeans
from store_engine.sid.quantizers.quantizer import (
    FitSettings,
    Quantizer,
    check_fit,
    num_kmeans_starts,
    principal_axes,
    squared_distances,
)


@dataclass(frozen=True)
class ParallelQuantizer(Quantizer):
    """A projection and a codebook per position; assigns codes to dense tokens, old or new."""

    pca_mean: Vectors  # (num_codes, hidden_size)
    pca_components: Vectors  # (num_codes, pca_dim, hidden_size), rows orthonormal
    centroids: Vectors  # (num_codes, codebook_size, pca_dim)

    prefix = ""
    forms: ClassVar = {
        "pca_mean": ArrayForm("f", 2, True),
        "pca_components": ArrayForm("f", 3, True),
        "centroids": ArrayForm("f", 3, True),
    }

    def __post_init__(self) -> None:
        """Checks that the arrays fit each other.

        Raises:
            ValueError: They do not.
        """
        (num_codes, hidden_size), pca_dim = self.pca_mean.shape, self.centroids.shape[2]
        is_fit = self.pca_components.shape == (num_codes, pca_dim, hidden_size)
        if not is_fit or len(self.centroids) != num_codes:
            raise ValueError("pca_mean, pca_components and centroids do not fit each other")

    @classmethod
    def fit(cls, vectors: Vectors, settings: FitSettings) -> Self:
        """Fits PCA and k-means per position; as many vectors per item as codes."""
        check_fit(vectors, settings)
        num_items, num_codes, hidden_size = vectors.shape
        if num_codes != settings.num_codes:
            raise InputError(
                f"tokenizer.quantizer = 'parallel' makes one code of each vector of an item, got "
                f"{num_codes} vectors and tokenizer.num_codes = {settings.num_codes}"
            )
        pca_dim = min(settings.pca_dim, hidden_size, num_items)
        mean = vectors.mean(0)
        components = np.stack(
            [principal_axes(vectors[:, n] - mean[n], pca_dim) for n in range(num_codes)]
        )
        projected = np.einsum("ind,npd->inp", vectors - mean, components, optimize=True)
        size, iterations, seed = settings.codebook_size, settings.iterations, settings.seed
        num_starts = num_kmeans_starts(num_items)
        centroids = np.stack(
            [
                kmeans(projected[:, n], size, iterations, seed + n, num_starts)
                for n in range(num_codes)
            ]
        )
        return cls(mean, components, centroids)

    def project(self, vectors: Vectors) -> Vectors:
        """Projects (num_items, num_codes, hidden_size) -> (num_items, num_codes, pca_dim)."""
        centred = vectors - self.pca_mean
        return np.einsum("ind,npd->inp", centred, self.pca_components, optimize=True)

    def distances(self, vectors: Vectors) -> Vectors:
        """Computes squared distances to all centroids: (num_items, num_codes, codebook_size)."""
        return squared_distances(self.project(vectors), self.centroids)

    def lift(self) -> Vectors:
        """Centroids in the LLM's space: (num_codes, codebook_size, hidden_size)."""
        lifted = np.einsum("nkp,npd->nkd", self.centroids, self.pca_components, optimize=True)
        return (lifted + self.pca_mean[:, None]).astype(np.float32)
