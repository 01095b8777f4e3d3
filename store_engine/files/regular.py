"""Opening files for reading: regular files of a bounded size, and one kind of error.

A FIFO blocks its reader, a device may never end, and a parser raises what it likes on damaged
bytes. A user sees one line instead: the path, and what is wrong with it.
"""

import contextlib
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path

from store_engine.errors import InputError

# what parsers of the standard library and numpy raise on damaged or hostile bytes
_PARSER_ERRORS = (
    ValueError,  # covers InputError, UnicodeDecodeError and JSONDecodeError
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    BufferError,
    EOFError,
    MemoryError,
    RecursionError,
    NotImplementedError,
    RuntimeError,
    SyntaxError,
    struct.error,
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    zlib.error,
)
_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def open_regular(path: str | Path, max_bytes: int | None = None) -> BufferedReader:
    """Opens a regular file for reading; links are followed.

    Args:
        path: The file.
        max_bytes: The largest size that is accepted; None accepts every size.

    Raises:
        InputError: The file is missing, cannot be read, is too large, or is no regular file.
    """
    try:
        # before opening, because to open a device can already do something
        _check_kind(path, os.stat(path).st_mode)
        # a FIFO that takes the file's place in between does not block
        file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    except OSError as error:
        raise InputError(f"{str(path) or repr('')}: {error.strerror}") from error
    except InputError:
        raise
    except ValueError as error:  # a NUL in the path, or what the file system cannot encode
        raise InputError(f"{str(path)!r}: not a path: {error}") from error
    try:
        status = os.fstat(file.fileno())
        _check_kind(path, status.st_mode)
        if max_bytes is not None and status.st_size > max_bytes:
            raise InputError(f"{path}: must be at most {max_bytes:,} bytes, is {status.st_size:,}")
    except BaseException:
        file.close()
        raise
    return file


def read_regular(path: str | Path, max_bytes: int) -> bytes:
    """Reads a whole regular file.

    Args:
        path: The file.
        max_bytes: The largest size that is accepted.

    Raises:
        InputError: As `open_regular`, or reading fails.
    """
    with open_regular(path, max_bytes) as file, parse_errors(path, "a readable file"):
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:  # it grew, or its size was not known before
        raise InputError(f"{path}: must be at most {max_bytes:,} bytes, is more")
    return content


@contextlib.contextmanager
def parse_errors(path: str | Path, what: str) -> Iterator[None]:
    """Turns what opening a file and parsing damaged bytes raise into one InputError.

    Args:
        path: The file that is read in the block, for the message.
        what: What the file should be, such as "a readable SID table".

    Raises:
        InputError: The block raised one, an OSError, or an error that parsers raise. Its message
            is "PATH: not WHAT: REASON".
    """
    try:
        yield
    except (OSError, *_PARSER_ERRORS) as error:
        text = (error.strerror if isinstance(error, OSError) else None) or str(error)
        reason = " ".join(text.removeprefix(f"{path}: ").split()) or type(error).__name__
        raise InputError(f"{path}: not {what}: {reason[:400]}") from error


def _check_kind(path: str | Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "none")
        raise InputError(f"{path}: must be a regular file, is {kind}")
