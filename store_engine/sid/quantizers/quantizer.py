"""What every quantiser offers: fit, encode, and arrays to save it as and load it from."""

import abc
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from store_engine.errors import InputError
from store_engine.files.npz import ArrayForm
from store_engine.sid.kmeans import Vectors, check_vectors

Codes = NDArray[np.int32]


class FitSettings(NamedTuple):
    """What a quantiser is fitted with."""

    num_codes: int  # levels
    codebook_size: int  # codes per level
    pca_dim: int  # dimensions that the codes are made in, lowered to what the items have
    iterations: int  # of k-means
    seed: int


class Quantizer(abc.ABC):
    """Makes codes of items' vectors, of those it was fitted to and of those that come later.

    A quantiser is a frozen dataclass of arrays, which are saved by their names.
    """

    prefix: ClassVar[str]  # of the arrays' names in a file
    forms: ClassVar[Mapping[str, ArrayForm]]  # the arrays

    @classmethod
    @abc.abstractmethod
    def fit(cls, vectors: Vectors, settings: FitSettings) -> Self:
        """Fits codebooks.

        Args:
            vectors: (num_items, num_vectors, dim) float32: dense tokens, or one vector per item.
            settings: Number and size of the codebooks.

        Raises:
            InputError: There are fewer items than codes, a vector is not finite, or the vectors
                do not have the form that this quantiser needs.
        """

    def encode(self, vectors: Vectors) -> Codes:
        """Finds the codes of vectors (num_items, num_vectors, dim): (num_items, num_codes) int32.

        The nearest ones by `distances`, unless a quantiser has another way.
        """
        return self.distances(vectors).argmin(-1).astype(np.int32)

    def distances(self, vectors: Vectors) -> Vectors:
        """Computes squared distances to all codes: (num_items, num_codes, codebook_size).

        A residual quantiser's distances at a level are those of what the item's own codes of the
        levels above leave.

        Raises:
            InputError: This quantiser has none.
        """
        raise InputError("tokenizer.collisions = 'reassign' needs codes with centroids")

    def lift(self) -> Vectors | None:
        """Returns the codes in the space of a vector: (num_codes, codebook_size, dim).

        None: they have no place there.
        """
        return None

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Returns what it consists of, by the names in a file."""
        return {self.prefix + name: getattr(self, name) for name in self.forms}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Makes it of what `arrays` returned.

        Raises:
            ValueError: An array is missing, empty, not finite, or does not fit the others.
        """
        parts = {}
        for name, form in cls.forms.items():
            if cls.prefix + name not in arrays:
                raise ValueError(f"it has no array '{cls.prefix + name}'")
            dtype = np.float32 if form.kinds == "f" else np.int32
            parts[name] = arrays[cls.prefix + name].astype(dtype, copy=False)
            if not parts[name].size or not np.isfinite(parts[name]).all():
                raise ValueError(f"array '{cls.prefix + name}' is empty or not finite")
        return cls(**parts)


def squared_distances(points: Vectors, centroids: Vectors) -> Vectors:
    """Computes squared distances, position by position.

    Args:
        points: (num_items, num_codes, dim) float32.
        centroids: (num_codes, codebook_size, dim) float32.

    Returns:
        (num_items, num_codes, codebook_size) float32.
    """
    cross = np.einsum("inp,nkp->ink", points, centroids, optimize=True)
    return (points**2).sum(-1)[:, :, None] - 2 * cross + (centroids**2).sum(-1)


def principal_axes(points: Vectors, dim: int) -> Vectors:
    """Finds the principal axes of points (num_items, n): (dim, n), rows orthonormal."""
    _, vectors = np.linalg.eigh(points.T.astype(np.float64) @ points)
    axes = vectors[:, ::-1][:, :dim].T
    # an axis' sign is arbitrary: its largest entry is made positive, so that runs can be compared
    largest = np.take_along_axis(axes, np.abs(axes).argmax(1, keepdims=True), 1)
    return np.ascontiguousarray(axes * np.sign(largest), dtype=np.float32)


def num_kmeans_starts(num_items: int) -> int:
    """Returns how many starts of k-means take no time; large catalogues are smooth enough."""
    return 5 if num_items < 1 << 16 else 1


def check_fit(vectors: Vectors, settings: FitSettings) -> None:
    """Refuses what no quantiser can be fitted to.

    Raises:
        InputError: There are fewer items than codes, or a vector is not finite.
    """
    if settings.codebook_size > len(vectors):
        raise InputError(
            f"tokenizer.codebook_size must not exceed the number of items, "
            f"got {settings.codebook_size} > {len(vectors)}"
        )
    check_vectors(vectors)
