"""What describes an item to the projection of its row: its dense tokens, in few dimensions."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from store_engine.files.atomic import atomic_open
from store_engine.files.npz import ArrayForm, read_npz
from store_engine.files.regular import parse_errors
from store_engine.sid.quantizers.quantizer import principal_axes

Vectors = NDArray[np.float32]

_ARRAYS = {"space": ArrayForm("f", 2), "features": ArrayForm("f", 2)}


@dataclass(frozen=True)
class FeatureMap:
    """From dense tokens to features, of old items and of new ones.

    Args:
        mean: (num_codes * hidden_size,) of the dense tokens.
        components: (num_features, num_codes * hidden_size), principal axes over one scale, so that
            features have a mean square norm of 1.
    """

    mean: Vectors
    components: Vectors

    def __post_init__(self) -> None:
        """Refuses arrays that do not fit each other.

        Raises:
            ValueError: They do not, or are not finite.
        """
        if self.mean.shape != self.components.shape[1:] or not len(self.components):
            raise ValueError("feature_mean and feature_components do not fit each other")
        if not (np.isfinite(self.mean).all() and np.isfinite(self.components).all()):
            raise ValueError("the map to features is not finite")

    @property
    def num_features(self) -> int:
        """Numbers per item."""
        return len(self.components) + 1

    def __call__(self, dense_tokens: Vectors) -> Vectors:
        """Maps (num_items, num_codes, hidden_size) to features (num_items, num_features).

        The last feature is always 1.
        """
        flat = dense_tokens.reshape(len(dense_tokens), len(self.mean))  # also of no items
        features = (flat - self.mean) @ self.components.T
        return np.hstack([features, np.ones((len(features), 1))]).astype(np.float32)


@dataclass(frozen=True)
class ItemVectors:
    """What the rows of items start from; `item_vectors.npz` of a run.

    Args:
        space: (num_items, dim) the items' places in the space that SIDs were cut from.
        features: (num_items, num_features) what describes them to the projection of their rows.
    """

    space: Vectors
    features: Vectors

    def __post_init__(self) -> None:
        """Refuses arrays that are not of the same items, or not finite.

        Raises:
            ValueError: They are.
        """
        if len(self.space) != len(self.features):
            raise ValueError("space and features are not of the same items")
        if not (np.isfinite(self.space).all() and np.isfinite(self.features).all()):
            raise ValueError("the items' vectors are not finite")

    def save(self, path: str | Path) -> None:
        """Writes an npz file, which either stands complete or not at all."""
        with atomic_open(path) as file:
            np.savez(file, space=self.space, features=self.features)

    @classmethod
    def load(cls, path: str | Path) -> "ItemVectors":
        """Reads what `save` wrote.

        Raises:
            InputError: The file is missing, damaged or not of this form.
        """
        arrays = read_npz(path, _ARRAYS, "readable item vectors")
        with parse_errors(path, "readable item vectors"):
            return cls(*(arrays[name].astype(np.float32, copy=False) for name in _ARRAYS))


def fit_features(dense_tokens: Vectors, num_features: int) -> FeatureMap:
    """Finds the principal axes of dense tokens.

    Args:
        dense_tokens: (num_items, num_codes, hidden_size), finite.
        num_features: Axes kept; lowered to what there is.
    """
    flat = dense_tokens.reshape(len(dense_tokens), -1)
    mean = flat.mean(0)
    axes = principal_axes(flat - mean, min(num_features, *flat.shape))
    norm = np.sqrt((((flat - mean) @ axes.T) ** 2).sum(1).mean())
    return FeatureMap(mean, (axes / norm if norm > 0 else axes).astype(np.float32))
