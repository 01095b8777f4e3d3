"""Arrays from npz files, whose headers are checked before anything is allocated.

What numpy.load believes (a shape of 2^60 items, an object array, a member that unpacks to a
terabyte) is refused: a member's dtype is one that its reader names, and its shape must give the
size that the member has in the file. Members are stored, as numpy.savez writes them: what is
compressed could be larger than any bound.
"""

import ast
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from store_engine.files.regular import open_regular, parse_errors

_MAX_HEADER_BYTES = 1 << 12
_MAX_ITEM_BYTES = {"i": 8, "u": 8, "f": 8, "U": 1 << 16}
_READ_BYTES = 1 << 20
_MAX_OF_NONE = 1 << 20  # of an empty array's other dimensions


class ArrayForm(NamedTuple):
    """What a member must be."""

    kinds: str  # numpy's dtype kinds that are accepted, of "iufU"
    ndim: int
    is_optional: bool = False


class ArrayHeader(NamedTuple):
    """What an array's header states, checked."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    is_fortran: bool
    num_bytes: int  # of the array, without the header


def read_npz(
    path: str | Path, members: Mapping[str, ArrayForm], what: str, max_bytes: int = 1 << 36
) -> dict[str, NDArray[Any]]:
    """Reads named arrays of an npz file; others in it are left alone.

    Args:
        path: The file, as numpy.savez writes it.
        members: Name of each array and what it must be.
        what: What the file should be, for the message, such as "a readable SID table".
        max_bytes: The largest size of the file that is accepted.

    Returns:
        The arrays by name, in this machine's byte order; an optional one that is missing is not
        in it.

    Raises:
        InputError: The file is missing, damaged, too large or no npz, or an array is not as its
            form says.
    """
    arrays = {}
    with parse_errors(path, what), open_regular(path, max_bytes) as file:
        file_bytes = file.seek(0, 2)
        with zipfile.ZipFile(file) as archive:
            found = {entry.filename: entry for entry in archive.infolist()}
            for name, form in members.items():
                entry = found.get(f"{name}.npy")
                if entry is None:
                    if form.is_optional:
                        continue
                    raise ValueError(f"it has no array '{name}'")
                if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > file_bytes:
                    raise ValueError(f"array '{name}' must be stored uncompressed")
                with archive.open(entry) as member:
                    header = read_array_header(member, entry.file_size, name, form)
                    arrays[name] = _read_array(member, header)
    return arrays


def read_array_header(file: Any, size: int, name: str, form: ArrayForm) -> ArrayHeader:
    """Reads the header of one array in numpy's npy format, and checks it against the size.

    Args:
        file: A binary file at the array's beginning; afterwards at its first item.
        size: Bytes of header and array together.
        name: The array's name, for the message.
        form: What the array must be.

    Raises:
        ValueError: The array is not as `form` says, or its shape does not give `size`. A damaged
            header raises what Python's parser does: call it inside `parse_errors`.
    """
    state, header_bytes = _read_header(file)
    dtype, shape = np.dtype(state["descr"]), state["shape"]
    if dtype.kind not in form.kinds or not 0 < dtype.itemsize <= _MAX_ITEM_BYTES[dtype.kind]:
        raise ValueError(f"array '{name}' must be of kind {' or '.join(form.kinds)}, is {dtype}")
    if not isinstance(shape, tuple) or any(type(n) is not int or n < 0 for n in shape):
        raise ValueError(f"array '{name}' must have a shape of counts, has {shape}")
    if len(shape) != form.ndim:
        raise ValueError(f"array '{name}' must have {form.ndim} dimensions, has {len(shape)}")
    num_bytes = math.prod(shape) * dtype.itemsize  # integers of any size: nothing overflows
    # of an empty array's dimensions the others could still be 2^60
    if num_bytes != size - header_bytes or max(shape, default=0) > max(size, _MAX_OF_NONE):
        raise ValueError(f"array '{name}' has shape {shape} and {size:,} bytes: not as many")
    return ArrayHeader(dtype, shape, bool(state["fortran_order"]), num_bytes)


def _read_header(file: BinaryIO) -> tuple[dict[str, Any], int]:
    """The header's dictionary, and its length in bytes."""
    magic = file.read(8)
    if magic[:6] != b"\x93NUMPY" or magic[6:] not in (b"\x01\x00", b"\x02\x00", b"\x03\x00"):
        raise ValueError("it does not begin as an array does")
    width = 2 if magic[6] == 1 else 4
    length = int.from_bytes(file.read(width), "little")
    if length > _MAX_HEADER_BYTES:
        raise ValueError(f"its header has {length} bytes")
    text = file.read(length)
    if len(text) != length:
        raise ValueError("its header is cut short")
    state = ast.literal_eval(text.decode("latin1" if magic[6] < 3 else "utf-8").strip())
    if not isinstance(state, dict) or state.keys() != {"descr", "fortran_order", "shape"}:
        raise ValueError("its header must state descr, fortran_order and shape")
    if not isinstance(state["descr"], str):  # a list describes a record
        raise ValueError("it must hold plain numbers or strings")
    return state, 8 + width + length


def _read_array(member: Any, header: ArrayHeader) -> NDArray[Any]:
    flat = np.empty(math.prod(header.shape), header.dtype)
    buffer, filled = flat.view(np.uint8).data, 0
    while filled < header.num_bytes:
        part = member.read(min(_READ_BYTES, header.num_bytes - filled))
        if not part:
            raise ValueError("it is cut short")
        buffer[filled : filled + len(part)] = part
        filled += len(part)
    member.read(1)  # at its end a member's checksum is compared
    if header.dtype.kind == "U":
        _check_text(flat)
    array = flat.reshape(header.shape, order="F" if header.is_fortran else "C")
    return array.astype(header.dtype.newbyteorder("="), order="C", copy=False)


def _check_text(flat: NDArray[Any]) -> None:
    """Refuses what is no text: numbers beyond Unicode, or halves of surrogate pairs."""
    characters = flat.view(np.dtype(np.uint32).newbyteorder(flat.dtype.byteorder))
    is_half = (characters >= 0xD800) & (characters < 0xE000)
    if (characters > 0x10FFFF).any() or is_half.any():
        raise ValueError("a string holds what is no character")
