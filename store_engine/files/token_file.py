"""Documents of tokens on disk, mapped into memory: a corpus larger than memory trains.

A folder with `tokens.bin` (all documents one behind the other, little-endian), `offsets.npy`
(num_documents + 1, int64: where each begins) and `checksums.json`, which is written last. It is
written once, document by document, and then only read; what nobody reads takes no memory.
"""

import json
from array import array
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from store_engine.errors import InputError
from store_engine.files.digest import sha256
from store_engine.files.json_file import read_json

_BUFFER_TOKENS = 1 << 20


class TokenFile:
    """Token documents by position; opens what `write` wrote.

    Args:
        folder: Where they are.

    Attributes:
        tokens: (num_tokens,) mapped, read-only.
        offsets: (num_documents + 1,) int64, mapped, read-only.

    Raises:
        InputError: A file is missing, or its size is not that which was written.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        mark = _read_mark(self.folder)
        path = self.folder / "tokens.bin"
        try:
            self.offsets: NDArray[np.int64] = np.load(
                self.folder / "offsets.npy", mmap_mode="r", allow_pickle=False
            )
            dtype = np.dtype(mark["dtype"])
            if path.stat().st_size != mark["num_tokens"] * dtype.itemsize:
                raise ValueError("its size is not that which was written")
            # an empty file cannot be mapped
            self.tokens: NDArray[Any] = (
                np.memmap(path, dtype, "r") if mark["num_tokens"] else np.empty(0, dtype)
            )
        except (OSError, ValueError, TypeError) as error:
            raise InputError(f"{self.folder}: not a readable token file: {error}") from error

    @classmethod
    def write(
        cls, folder: str | Path, documents: Iterable[ArrayLike], dtype: str = "int32"
    ) -> "TokenFile":
        """Writes documents, one at a time, and opens them.

        Args:
            folder: To be made; what is there is replaced.
            documents: Sequences of non-negative ids, perhaps empty.
            dtype: Integer type on disk.

        Raises:
            ValueError: An id does not fit into `dtype`.
        """
        folder, kind = Path(folder), np.dtype(dtype).newbyteorder("<")
        folder.mkdir(exist_ok=True)
        (folder / "checksums.json").unlink(missing_ok=True)
        ends, buffer, num_buffered = array("q", [0]), [], 0
        with (folder / "tokens.bin").open("wb") as file:
            for document in documents:
                ids = np.asarray(document, dtype=np.int64)
                if len(ids) and not 0 <= ids.min() <= ids.max() <= np.iinfo(kind).max:
                    raise ValueError(f"ids must fit {dtype}, got {ids.min()} to {ids.max()}")
                ends.append(ends[-1] + len(ids))
                buffer.append(ids.astype(kind))
                num_buffered += len(ids)
                if num_buffered >= _BUFFER_TOKENS:
                    np.concatenate(buffer).tofile(file)
                    buffer, num_buffered = [], 0
            if buffer:
                np.concatenate(buffer).tofile(file)
        np.save(folder / "offsets.npy", np.frombuffer(ends, dtype=np.int64))
        mark = {"dtype": kind.str, "num_tokens": ends[-1]}
        sums = {name: sha256(folder / name) for name in ("tokens.bin", "offsets.npy")}
        (folder / "checksums.json").write_text(json.dumps(mark | {"sha256": sums}), "utf-8")
        return cls(folder)

    def verify(self) -> None:
        """Reads everything once and compares the checksums.

        Raises:
            InputError: A file differs from what was written.
        """
        for name, checksum in _read_mark(self.folder)["sha256"].items():
            if sha256(self.folder / name) != checksum:
                raise InputError(f"{self.folder / name}: damaged (its checksum differs)")

    def __len__(self) -> int:
        """Number of documents."""
        return len(self.offsets) - 1

    def __getitem__(self, document: int) -> NDArray[Any]:
        """The tokens of a document, as a view."""
        if not 0 <= document < len(self):
            raise IndexError(f"document must be in [0, {len(self)}), got {document}")
        return self.tokens[self.offsets[document] : self.offsets[document + 1]]


def _read_mark(folder: Path) -> dict[str, Any]:
    try:
        mark = read_json(folder / "checksums.json")
        if missing := {"dtype", "num_tokens", "sha256"} - set(mark):
            raise InputError(f"checksums.json lacks {', '.join(sorted(missing))}")
    except InputError as error:
        raise InputError(f"{folder}: not a readable token file: {error}") from error
    return mark
