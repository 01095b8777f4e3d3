"""Optimised product quantisation: a rotation, then k-means in each part of the dimensions.

An item's vectors are put side by side, so that the parts need not be the vectors: the rotation
gives every code an equal share of what there is to say.
Source: Ge et al., Optimized Product Quantization, CVPR 2013. (faiss's OPQMatrix crashes on
fewer points than dimensions.)
"""

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from store_engine.errors import InputError
from store_engine.files.npz import ArrayForm
from store_engine.sid.kmeans import Vectors, kmeans, means
from store_engine.sid.quantizers.quantizer import (
    FitSettings,
    Quantizer,
    check_fit,
    num_kmeans_starts,
    principal_axes,
    squared_distances,
)

_ROTATIONS = 20  # rounds of codes and rotation; later ones change little


@dataclass(frozen=True)
class OpqQuantizer(Quantizer):
    """A rotation of the joined vectors, and a codebook per part."""

    mean: Vectors  # (num_vectors, dim)
    rotation: Vectors  # (num_codes * part_dim, num_vectors * dim), rows orthonormal
    centroids: Vectors  # (num_codes, codebook_size, part_dim)

    prefix = "opq_"
    forms: ClassVar = {
        "mean": ArrayForm("f", 2, True),
        "rotation": ArrayForm("f", 2, True),
        "centroids": ArrayForm("f", 3, True),
    }

    def __post_init__(self) -> None:
        """Checks that the arrays fit each other.

        Raises:
            ValueError: They do not.
        """
        num_codes, _, part_dim = self.centroids.shape
        if self.rotation.shape != (num_codes * part_dim, self.mean.size):
            raise ValueError("mean, rotation and centroids do not fit each other")

    @classmethod
    def fit(cls, vectors: Vectors, settings: FitSettings) -> Self:
        """Fits PCA, a rotation of it, and k-means per part."""
        check_fit(vectors, settings)
        mean = vectors.mean(0)
        joined = (vectors - mean).reshape(len(vectors), -1)
        num_codes, dim = settings.num_codes, joined.shape[1]
        if dim < num_codes:
            raise InputError(
                f"tokenizer.quantizer = 'opq' needs a dimension per code, got {dim} dimensions "
                f"and tokenizer.num_codes = {num_codes}"
            )
        part_dim = max(1, min(settings.pca_dim, dim) // num_codes)
        axes = principal_axes(joined, num_codes * part_dim)
        rotation = _rotation(joined @ axes.T, settings) @ axes
        parts = (joined @ rotation.T).reshape(len(vectors), num_codes, part_dim)
        size, num_starts = settings.codebook_size, num_kmeans_starts(len(vectors))
        centroids = [
            kmeans(parts[:, n], size, settings.iterations, settings.seed + n, num_starts)
            for n in range(num_codes)
        ]
        return cls(mean, rotation, np.stack(centroids))

    def distances(self, vectors: Vectors) -> Vectors:
        """Computes squared distances to all centroids, part by part."""
        joined: Vectors = (vectors - self.mean).reshape(len(vectors), -1)
        rotated: Vectors = joined @ self.rotation.T
        num_codes, _, part_dim = self.centroids.shape
        parts = rotated.reshape(len(vectors), num_codes, part_dim)
        return squared_distances(parts, self.centroids)

    def lift(self) -> Vectors:
        """Centroids in the space of a vector: rotated back, averaged over the item's vectors."""
        num_codes, codebook_size, part_dim = self.centroids.shape
        back = self.rotation.reshape(num_codes, part_dim, -1)
        joined = np.einsum("nkp,npd->nkd", self.centroids, back, optimize=True)
        split = joined.reshape(num_codes, codebook_size, *self.mean.shape)
        return (split + self.mean).mean(2).astype(np.float32)


def _rotation(points: Vectors, settings: FitSettings) -> Vectors:
    """Finds the rotation (dim, dim) of points (num_items, dim) that product codes lose least by.

    In turn: the codes of the rotated points, the means of each code's points, and the rotation that
    brings the points nearest to those (Procrustes).
    """
    num_codes = settings.num_codes
    rotation = _shared_out(points, num_codes)
    parts = (points @ rotation.T).reshape(len(points), num_codes, -1)
    size, iterations = settings.codebook_size, settings.iterations
    centroids = np.stack(
        [kmeans(parts[:, n], size, iterations, settings.seed + n) for n in range(num_codes)]
    )
    for _ in range(_ROTATIONS):
        codes = squared_distances(parts, centroids).argmin(-1)
        for n in range(num_codes):
            used, labels = np.unique(codes[:, n], return_inverse=True)
            centroids[n, used] = means(parts[:, n], labels, len(used))
        rebuilt = centroids[np.arange(num_codes), codes].reshape(points.shape)
        left, _, right = np.linalg.svd(rebuilt.T.astype(np.float64) @ points)
        rotation = (left @ right).astype(np.float32)
        parts = (points @ rotation.T).reshape(parts.shape)
    return rotation


def _shared_out(points: Vectors, num_parts: int) -> Vectors:
    """Permutes principal axes so that every part has as large a product of variances.

    Returns:
        A permutation (dim, dim); each part has dim / num_parts of the axes, the largest first.
    """
    variances = np.maximum(points.var(0), 1e-12)
    logs = np.log(variances / variances.min())  # not negative: what is in a part adds up
    parts: list[list[int]] = [[] for _ in range(num_parts)]
    for axis in np.argsort(-variances, kind="stable").tolist():
        is_open = [part for part in parts if len(part) < len(logs) // num_parts]
        min(is_open, key=lambda part: float(logs[part].sum())).append(axis)
    return np.eye(len(logs), dtype=np.float32)[np.concatenate(parts)]
