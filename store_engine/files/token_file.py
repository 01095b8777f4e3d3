"""Documents of tokens on disk, mapped into memory: a corpus larger than memory trains.

A folder with `tokens.bin` (all documents one behind the other, little-endian), `offsets.npy`
(num_documents + 1, int64: where each begins) and `checksums.json`, which is written last. It is
written once, document by document, and then only read; what is not read takes no memory.
"""

from array import array
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from store_engine.errors import InputError
from store_engine.files.atomic import atomic_open
from store_engine.files.digest import is_sha256, sha256
from store_engine.files.json_file import read_json, write_json
from store_engine.files.npz import ArrayForm, read_array_header
from store_engine.files.regular import open_regular, parse_errors

_BUFFER_TOKENS = 1 << 20
_FILES = ("tokens.bin", "offsets.npy")
_CHECKSUMS = "checksums.json"
_DTYPES = {"<u1": "uint8", "|u1": "uint8", "<u2": "uint16", "<i4": "int32", "<i8": "int64"}


class TokenFile:
    """Token documents by position; opens what `write` wrote.

    Args:
        folder: Where they are.

    Attributes:
        tokens: (num_tokens,) mapped, read-only.
        offsets: (num_documents + 1,) int64, mapped, read-only.

    Raises:
        InputError: A file is missing or damaged, or its size is not that which was written.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        with parse_errors(self.folder, "a readable token file"):
            metadata = _read_metadata(self.folder)
            self.tokens = _map_tokens(self.folder / "tokens.bin", metadata)
            self.offsets = _map_offsets(self.folder / "offsets.npy", metadata.num_tokens)

    @classmethod
    def write(
        cls, folder: str | Path, documents: Iterable[ArrayLike], dtype: str = "int32"
    ) -> "TokenFile":
        """Writes documents, one at a time, and opens them.

        Args:
            folder: The folder to make; a token file that is there is replaced.
            documents: Sequences of non-negative ids; a document may be empty.
            dtype: Integer type on disk: uint8, uint16, int32 or int64.

        Raises:
            ValueError: An id does not fit into `dtype`, or `dtype` is another.
        """
        if dtype not in _DTYPES.values():
            raise ValueError(f"dtype must be uint8, uint16, int32 or int64, got {dtype!r}")
        folder, kind = Path(folder), np.dtype(dtype).newbyteorder("<")
        folder.mkdir(exist_ok=True)
        (folder / _CHECKSUMS).unlink(missing_ok=True)
        ends, buffer, num_buffered = array("q", [0]), [], 0
        with atomic_open(folder / "tokens.bin") as file:
            for document in documents:
                ids = np.asarray(document, dtype=np.int64)
                if len(ids) and not 0 <= ids.min() <= ids.max() <= np.iinfo(kind).max:
                    raise ValueError(f"ids must fit {dtype}, got {ids.min()} to {ids.max()}")
                ends.append(ends[-1] + len(ids))
                buffer.append(ids.astype(kind))
                num_buffered += len(ids)
                if num_buffered >= _BUFFER_TOKENS:
                    file.write(np.concatenate(buffer).data)
                    buffer, num_buffered = [], 0
            if buffer:
                file.write(np.concatenate(buffer).data)
        with atomic_open(folder / "offsets.npy") as file:
            np.save(file, np.frombuffer(ends, dtype=np.int64))
        sums = {name: sha256(folder / name) for name in _FILES}
        metadata = {"dtype": kind.str, "num_tokens": ends[-1], "sha256": sums}
        write_json(folder / _CHECKSUMS, metadata, indent=None)
        return cls(folder)

    def verify(self) -> None:
        """Reads everything once and compares the checksums.

        Raises:
            InputError: A file differs from what was written.
        """
        with parse_errors(self.folder, "a readable token file"):
            metadata = _read_metadata(self.folder)
        for name, checksum in metadata.sha256.items():
            if sha256(self.folder / name) != checksum:
                raise InputError(f"{self.folder / name}: damaged (its checksum differs)")

    def __len__(self) -> int:
        """Returns the number of documents."""
        return len(self.offsets) - 1

    def __getitem__(self, document: int) -> NDArray[Any]:
        """Returns the tokens of a document, as a view."""
        if not 0 <= document < len(self):
            raise IndexError(f"document must be in [0, {len(self)}), got {document}")
        return self.tokens[self.offsets[document] : self.offsets[document + 1]]


class _Metadata(NamedTuple):
    dtype: np.dtype[Any]
    num_tokens: int
    sha256: dict[str, str]  # of both files


def _read_metadata(folder: Path) -> _Metadata:
    """Reads checksums.json, and believes nothing that the rest of this file could not work with."""
    match read_json(folder / _CHECKSUMS, max_bytes=1 << 16):
        case {"dtype": str(dtype), "num_tokens": int(num), "sha256": dict(sums)}:
            is_known = dtype in _DTYPES and type(num) is int and num >= 0
            if is_known and sums.keys() == set(_FILES) and all(map(is_sha256, sums.values())):
                return _Metadata(np.dtype(dtype), num, sums)
    raise ValueError(f"{_CHECKSUMS} must state dtype, num_tokens and the sha256 of both files")


def _map_tokens(path: Path, metadata: _Metadata) -> NDArray[Any]:
    with open_regular(path) as file:
        if file.seek(0, 2) != metadata.num_tokens * metadata.dtype.itemsize:
            raise ValueError(f"the size of {path.name} is not that which was written")
        if metadata.num_tokens == 0:  # an empty file cannot be mapped
            return np.empty(0, metadata.dtype)
        return np.memmap(file, metadata.dtype, "r")


def _map_offsets(path: Path, num_tokens: int) -> NDArray[np.int64]:
    with open_regular(path) as file:
        size = file.seek(0, 2)
        file.seek(0)
        header = read_array_header(file, size, path.name, ArrayForm("i", 1))
        if header.dtype != np.int64 or not header.num_bytes:
            raise ValueError(f"{path.name} must hold int64, at least one")
        offsets = np.memmap(file, np.int64, "r", file.tell(), header.shape)
    # part by part: what was looked at need not stay in memory
    for begin in range(0, len(offsets), _BUFFER_TOKENS):
        part = offsets[begin : begin + _BUFFER_TOKENS + 1]
        if (part[1:] < part[:-1]).any():
            raise ValueError(f"{path.name} must not fall")
    if (offsets[0], offsets[-1]) != (0, num_tokens):
        raise ValueError(f"{path.name} must lead from 0 to {num_tokens}")
    return offsets
