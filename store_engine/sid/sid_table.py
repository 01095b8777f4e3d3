"""sids.npz: the SID of every item, and what assigns one to an item that comes later."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from store_engine.errors import InputError
from store_engine.files.atomic import atomic_open
from store_engine.sid.quantize import ParallelQuantizer


@dataclass(frozen=True)
class SidTable:
    """SIDs of a catalogue, in row order."""

    sids: NDArray[np.int32]  # (num_items, num_levels)
    codebook_sizes: tuple[int, ...]  # codes per level
    item_ids: tuple[str, ...]
    quantizer: ParallelQuantizer | None = None  # None: SIDs brought by the user

    def __post_init__(self) -> None:
        """Checks that the parts fit each other.

        Raises:
            ValueError: They do not; the message names the first row or level that is wrong.
        """
        if self.sids.ndim != 2 or self.sids.shape != (len(self.item_ids), len(self.codebook_sizes)):
            want = (len(self.item_ids), len(self.codebook_sizes))
            raise ValueError(
                f"sids must be (num_items, num_levels) = {want}, got {self.sids.shape}"
            )
        outside = (self.sids < 0) | (self.sids >= np.array(self.codebook_sizes))
        if outside.any():
            row, level = np.argwhere(outside)[0]
            raise ValueError(
                f"sids[{row}, {level}] must be in [0, {self.codebook_sizes[level]}), "
                f"got {self.sids[row, level]}"
            )

    def save(self, path: str | Path) -> None:
        """Writes an npz file, which either stands complete or not at all."""
        arrays: dict[str, Any] = {
            "codes": self.sids,
            "codebook_sizes": np.array(self.codebook_sizes, dtype=np.int64),
            "item_ids": np.array(self.item_ids, dtype=np.str_),
        }
        if self.quantizer is not None:
            arrays |= vars(self.quantizer)
        with atomic_open(path) as file:
            np.savez(file, **arrays)

    @classmethod
    def load(cls, path: str | Path) -> "SidTable":
        """Reads what `save` wrote.

        Raises:
            InputError: The file is missing, damaged or not of this form.
        """
        try:
            with np.load(path, allow_pickle=False) as arrays:
                quantizer = None
                if "centroids" in arrays:
                    names = ("pca_mean", "pca_components", "centroids")
                    quantizer = ParallelQuantizer(*(arrays[name] for name in names))
                return cls(
                    arrays["codes"].astype(np.int32, casting="same_kind"),
                    tuple(arrays["codebook_sizes"].tolist()),
                    tuple(arrays["item_ids"].tolist()),
                    quantizer,
                )
        except (OSError, ValueError, KeyError, TypeError, BadZipFile) as error:
            raise InputError(f"{path}: not a readable SID table: {error}") from error
