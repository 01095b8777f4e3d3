"""Files that stand complete or not at all, also after a power cut."""

import contextlib
import errno
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from store_engine.errors import InputError

_TEMPORARY = re.compile(r"\.[0-9a-f]{16}\.tmp")


@contextmanager
def atomic_open(path: str | Path) -> Iterator[BinaryIO]:
    """Opens a temporary file beside `path` and moves it there once the block has ended well.

    The content is on the disk before the name is. A block that raises leaves `path` as it was and
    nothing beside it; a kill can leave a file that `is_temporary` knows again.

    Args:
        path: The file to make or to replace; its folder must exist. A link is itself replaced.

    Yields:
        A binary file to write to.

    Raises:
        InputError: `path` is a directory, a device or something else that is no file.
    """
    path = Path(path)
    if path.exists() and not stat.S_ISREG(path.stat().st_mode):
        raise InputError(f"{path}: cannot be replaced: it is not a regular file")
    # nobody can guess the name and plant a link there
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with open(os.open(temporary, flags, 0o666), "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        raise
    sync_directory(path.parent)


def is_temporary(name: str) -> bool:
    """Tells whether a file of this name was left behind by an `atomic_open` that was killed."""
    return _TEMPORARY.fullmatch(name) is not None


def sync_directory(folder: Path) -> None:
    """Waits until the names in a folder are on the disk."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems
            raise
    finally:
        os.close(handle)


def sync_tree(folder: Path) -> None:
    """Waits until every file and name below a folder is on the disk."""
    for directory, _, names in os.walk(folder):
        for name in names:
            path = Path(directory, name)
            if path.is_file():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
        sync_directory(Path(directory))
