"""Whether files are still what was written; of large ones that is found out once."""

import contextlib
import os
import time
from pathlib import Path
from typing import Any

from store_engine.errors import InputError
from store_engine.files.digest import sha256
from store_engine.files.json_file import read_json, write_json

_LARGE = 1 << 24  # bytes; a smaller file is read in hundredths of a second
# a change within the clock's tick of the one before leaves the same time of change
_SETTLED_NS = 2 * 10**9


class VerifiedFiles:
    """Remembers which large files had which digest, by size, times and inode.

    Args:
        path: Where it is remembered, a JSON file. Where it cannot be written, every file is read
            again each time.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def matches(self, path: Path, digest: str, always: bool = False) -> bool:
        """Tells whether a file has a digest.

        Args:
            path: The file, in the folder where results are remembered or below.
            digest: SHA-256 in hexadecimal.
            always: Read the file, whatever is remembered.

        Raises:
            InputError: The file is missing or no regular file.
        """
        try:
            status = os.stat(path)
        except OSError as error:
            raise InputError(f"{path}: {error.strerror}") from error
        name = os.path.relpath(path, self._path.parent)
        times = (status.st_mtime_ns, status.st_ctime_ns)
        seen = [digest, status.st_size, *times, status.st_ino]
        is_large = status.st_size >= _LARGE
        if is_large and not always and self._read().get(name) == seen:
            return True
        if sha256(path) != digest:
            return False
        if is_large and time.time_ns() - max(times) > _SETTLED_NS:
            # a run on a read-only disk is verified every time
            with contextlib.suppress(OSError, InputError):
                write_json(self._path, self._read() | {name: seen})
        return True

    def _read(self) -> dict[str, Any]:
        """What is remembered; a damaged file remembers nothing."""
        with contextlib.suppress(InputError):
            return read_json(self._path, max_bytes=1 << 20)
        return {}
