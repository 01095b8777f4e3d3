"""The header of a GGUF file, walked once with every count checked against the file's size.

`gguf`'s reader believes its file: a count of 2^60 is a loop that long, and every string becomes
several arrays. So the header is walked first, without making anything of it.

Layout, little endian: magic, version, number of tensors, number of key-value pairs; the pairs (key,
type, value); the tensors (name, number of dimensions, dimensions, type, offset); padding; data.
Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import math
import struct
from collections.abc import Mapping
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

from store_engine.files.regular import open_regular, parse_errors

_MAX_TENSORS, _MAX_PAIRS = 1 << 17, 1 << 14
_MAX_ELEMENTS = 1 << 22  # of all lists in the metadata; known files have up to 2^20
_MAX_DIMENSIONS = 4
_VALUE_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_STRING, _ARRAY = 8, 9
_ALIGNMENT_KEY = b"general.alignment"


def check_header(path: Path, block_sizes: Mapping[int, tuple[int, int]]) -> None:
    """Refuses a GGUF file whose header states more than the file holds.

    Args:
        path: The file.
        block_sizes: Type of a tensor -> elements per block, bytes per block.

    Raises:
        InputError: The file is missing, no regular file, or its header is damaged.
    """
    with parse_errors(path, "a readable GGUF file"), open_regular(path) as file:
        if file.seek(0, 2) == 0:
            raise ValueError("it is empty")
        with mmap(file.fileno(), 0, access=ACCESS_READ) as content:
            _Walk(content).check(block_sizes)


class _Walk:
    """Reads on from `at`; nothing is read beyond the end."""

    def __init__(self, content: mmap) -> None:
        self._content, self._at, self._num_elements = content, 0, 0

    def check(self, block_sizes: Mapping[int, tuple[int, int]]) -> None:
        magic, version = self._numbers("<4sI")
        if magic != b"GGUF" or version not in (2, 3):
            raise ValueError("it is not GGUF of version 2 or 3, little endian")
        num_tensors, num_pairs = self._numbers("<QQ")
        if num_tensors > _MAX_TENSORS or num_pairs > _MAX_PAIRS:
            raise ValueError(f"it states {num_tensors:,} tensors and {num_pairs:,} keys")
        alignment, keys = 32, set()
        for _ in range(num_pairs):
            key, (kind,) = self._string(), self._numbers("<I")
            keys.add(key)
            begin = self._at
            self._skip_value(kind)
            if key == _ALIGNMENT_KEY:
                if kind != 4:
                    raise ValueError("its alignment must be a uint32")
                (alignment,) = struct.unpack_from("<I", self._content, begin)
        if len(keys) < num_pairs:
            raise ValueError("a key of its metadata stands there twice")
        if alignment not in (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096):
            raise ValueError(f"its alignment is {alignment}")
        ends = [self._tensor(block_sizes) for _ in range(num_tensors)]
        data = -(-self._at // alignment) * alignment
        if ends and data + max(ends) > len(self._content):
            raise ValueError("a tensor ends beyond the file")

    def _tensor(self, block_sizes: Mapping[int, tuple[int, int]]) -> int:
        """Returns where a tensor ends, counted from where the data begin."""
        self._string()
        (num_dimensions,) = self._numbers("<I")
        if not 0 < num_dimensions <= _MAX_DIMENSIONS:
            raise ValueError(f"a tensor has {num_dimensions} dimensions")
        shape = self._numbers(f"<{num_dimensions}Q")
        kind, offset = self._numbers("<IQ")
        if kind not in block_sizes:
            raise ValueError(f"a tensor is of the unknown type {kind}")
        per_block, block_bytes = block_sizes[kind]
        if shape[0] % per_block or 0 in shape:
            raise ValueError(f"a tensor has shape {shape}, in blocks of {per_block}")
        num_blocks: int = math.prod(shape) // per_block
        return int(offset) + num_blocks * block_bytes

    def _skip_value(self, kind: int, depth: int = 0) -> None:
        if kind in _VALUE_BYTES:
            self._skip(_VALUE_BYTES[kind])
        elif kind == _STRING:
            self._string()
        elif kind == _ARRAY and depth < 2:
            inner, count = self._numbers("<IQ")
            self._num_elements += count
            if self._num_elements > _MAX_ELEMENTS:
                raise ValueError(f"its metadata state lists of {self._num_elements:,} values")
            if inner in _VALUE_BYTES:
                self._skip(_VALUE_BYTES[inner] * count)
            else:
                for _ in range(count):
                    self._skip_value(inner, depth + 1)
        else:
            raise ValueError(f"a value is of the unknown type {kind}")

    def _string(self) -> bytes:
        (length,) = self._numbers("<Q")
        begin = self._at
        self._skip(length)
        return self._content[begin : self._at]

    def _numbers(self, form: str) -> tuple[Any, ...]:
        begin = self._at
        self._skip(struct.calcsize(form))
        return struct.unpack_from(form, self._content, begin)

    def _skip(self, num_bytes: int) -> None:
        if num_bytes > len(self._content) - self._at:
            raise ValueError("its header states more than the file holds")
        self._at += num_bytes
