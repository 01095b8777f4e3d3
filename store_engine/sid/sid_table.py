"""sids.npz: the SID of every item, and what assigns one to an item that comes later."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from store_engine.files.atomic import atomic_open
from store_engine.files.npz import ArrayForm, read_npz
from store_engine.files.regular import parse_errors
from store_engine.sid.item_features import FeatureMap
from store_engine.sid.quantizers.kinds import ARRAY_FORMS, quantizer_from
from store_engine.sid.quantizers.quantizer import Quantizer

_MAX_CODEBOOK_SIZE, _MAX_LEVELS = 1 << 16, 16  # of the core's trie
_ARRAYS = {
    "codes": ArrayForm("iu", 2),
    "codebook_sizes": ArrayForm("iu", 1),
    "item_ids": ArrayForm("U", 1),
    "feature_mean": ArrayForm("f", 1, is_optional=True),
    "feature_components": ArrayForm("f", 2, is_optional=True),
    "neighbours_share_prefix": ArrayForm("f", 1, is_optional=True),
    **ARRAY_FORMS,
}


@dataclass(frozen=True)
class SidTable:
    """SIDs of a catalogue, in row order."""

    sids: NDArray[np.int32]  # (num_items, num_levels)
    codebook_sizes: tuple[int, ...]  # codes per level
    item_ids: tuple[str, ...]
    quantizer: Quantizer | None = None  # None: SIDs brought by the user, or `features`
    # (num_levels - 1,) of `codebook_report.neighbours_share_prefix`, where there were vectors
    neighbours_share_prefix: NDArray[np.float64] | None = None
    features: FeatureMap | None = None  # the last level is the item itself, described by these

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
        if not all(1 <= size <= _MAX_CODEBOOK_SIZE for size in self.codebook_sizes):
            raise ValueError(
                f"codebook sizes must be in [1, {_MAX_CODEBOOK_SIZE}], got {self.codebook_sizes}"
            )
        if not 1 <= len(self.codebook_sizes) <= _MAX_LEVELS:
            raise ValueError(
                f"there must be 1 to {_MAX_LEVELS} levels, got {len(self.codebook_sizes)}"
            )
        outside = (self.sids < 0) | (self.sids >= np.array(self.codebook_sizes))
        if outside.any():
            row, level = np.argwhere(outside)[0]
            raise ValueError(
                f"sids[{row}, {level}] must be in [0, {self.codebook_sizes[level]}), "
                f"got {self.sids[row, level]}"
            )
        shares = self.neighbours_share_prefix
        if shares is not None and (
            len(shares) != self.sids.shape[1] - 1 or not ((shares >= 0) & (shares <= 1)).all()
        ):
            raise ValueError("neighbours_share_prefix must be shares, one of each prefix")

    def described_levels(self, num_codes: int) -> int:
        """Levels that tell items apart by what they are: without a collision suffix.

        Args:
            num_codes: `tokenizer.num_codes` of the run.
        """
        return num_codes if self.features is None else len(self.codebook_sizes)

    def save(self, path: str | Path) -> None:
        """Writes an npz file, which either stands complete or not at all."""
        arrays: dict[str, Any] = {
            "codes": self.sids,
            "codebook_sizes": np.array(self.codebook_sizes, dtype=np.int64),
            "item_ids": np.array(self.item_ids, dtype=np.str_),
        }
        if self.quantizer is not None:
            arrays |= self.quantizer.arrays()
        if self.features is not None:
            arrays["feature_mean"] = self.features.mean
            arrays["feature_components"] = self.features.components
        if self.neighbours_share_prefix is not None:
            arrays["neighbours_share_prefix"] = self.neighbours_share_prefix
        with atomic_open(path) as file:
            np.savez(file, **arrays)

    @classmethod
    def load(cls, path: str | Path) -> "SidTable":
        """Reads what `save` wrote.

        Raises:
            InputError: The file is missing, damaged or not of this form.
        """
        arrays = read_npz(path, _ARRAYS, "a readable SID table")
        with parse_errors(path, "a readable SID table"):
            features = None
            if "feature_components" in arrays:
                names = ("feature_mean", "feature_components")
                features = FeatureMap(*(arrays[n].astype(np.float32, copy=False) for n in names))
            codes = arrays["codes"]
            if codes.size and not 0 <= codes.min() <= codes.max() < 1 << 31:
                raise ValueError("a code does not fit int32")
            return cls(
                codes.astype(np.int32),
                tuple(arrays["codebook_sizes"].tolist()),
                tuple(arrays["item_ids"].tolist()),
                quantizer_from(arrays),
                arrays.get("neighbours_share_prefix"),
                features,
            )
