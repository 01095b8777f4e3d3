"""Directories that appear complete, and replace another in one step.

A new directory is built beside its place as `NAME.partial-RANDOM` and then takes the place. Where
the system can exchange two names, that is one step; elsewhere the old one is moved to
`NAME.old-RANDOM` first, and `recover` moves it back if the process dies in between. What a dead
process leaves behind, `recover` removes: it is known by its name and by a lock file in it that
no process holds, so directories of others are never removed.
"""

import ctypes
import errno
import os
import re
import secrets
import shutil
from pathlib import Path

from store_engine.errors import InputError
from store_engine.files.atomic import sync_directory, sync_tree
from store_engine.files.lock import FileLock

LOCK_NAME = "lock"  # in every directory that is built or replaced here
_LEFTOVER = re.compile(r"\.(partial|old)-[0-9a-f]{16}")
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


class StagedDirectory:
    """A directory that is being built beside its place; made by `stage`.

    Attributes:
        path: Where to build it.
    """

    def __init__(self, target: Path, path: Path, lock: FileLock) -> None:
        self.target, self.path, self._lock = target, path, lock

    @classmethod
    def stage(cls, target: Path) -> "StagedDirectory":
        """Begins a directory; the folders above it are made.

        Raises:
            OSError: It cannot be made.
        """
        target.parent.mkdir(parents=True, exist_ok=True)
        while True:
            path = target.with_name(f"{target.name}.partial-{secrets.token_hex(8)}")
            path.mkdir()
            try:
                return cls(target, path, FileLock.acquire(path / LOCK_NAME, str(path)))
            except (FileNotFoundError, InputError):
                pass  # in the moment before it was locked, it was taken for a leftover

    def publish(self, replaces: FileLock | None = None) -> FileLock:
        """Moves the directory to its place, when all of it is on the disk.

        Args:
            replaces: The lock of the directory that is there, which is removed; None: there is
                none, or an empty one.

        Returns:
            The lock of the directory at its place.

        Raises:
            OSError: The place is taken, or cannot be written.
        """
        sync_tree(self.path)
        if replaces is None:
            os.rename(self.path, self.target)
        elif _exchange(self.path, self.target):
            sync_directory(self.target.parent)
            _remove(self.path)
        else:
            old = self.target.with_name(f"{self.target.name}.old-{secrets.token_hex(8)}")
            os.rename(self.target, old)
            try:
                os.rename(self.path, self.target)
            except BaseException:
                os.rename(old, self.target)
                raise
            sync_directory(self.target.parent)
            _remove(old)
        sync_directory(self.target.parent)
        if replaces is not None:
            replaces.release()
        return self._lock.moved(self.target / LOCK_NAME)

    def discard(self) -> None:
        """Removes what was built."""
        if self.path.exists():
            _remove(self.path)
        self._lock.release()


def recover(target: Path) -> None:
    """Brings back a directory whose replacement was killed, and removes what was left beside it.

    Args:
        target: The directory's place.

    Raises:
        OSError: A leftover cannot be moved or removed.
    """
    if not target.parent.is_dir():
        return
    for path in sorted(target.parent.glob(f"{_escape(target.name)}.*-*")):
        found = _LEFTOVER.fullmatch(path.name.removeprefix(target.name))
        if found is None or path.is_symlink() or not path.is_dir():
            continue
        if not (path / LOCK_NAME).exists():
            if not any(path.iterdir()):
                path.rmdir()
            continue
        try:
            lock = FileLock.acquire(path / LOCK_NAME, str(path))
        except (FileNotFoundError, InputError):
            continue  # it lives, or another process removes it just now
        if found[1] == "old" and not target.exists():
            os.rename(path, target)
            sync_directory(target.parent)
        else:
            _remove(path)
        lock.release()


def _remove(path: Path) -> None:
    """Removes a directory, its lock last: what is left of it by a kill is known again."""
    for entry in path.iterdir():
        if entry.name == LOCK_NAME:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    (path / LOCK_NAME).unlink()
    path.rmdir()


def _exchange(first: Path, second: Path) -> bool:
    """Exchanges two names in one step; False where the system cannot."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    names = (os.fsencode(first), os.fsencode(second))
    if rename(_AT_FDCWD, names[0], _AT_FDCWD, names[1], ctypes.c_uint(_RENAME_EXCHANGE)) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), str(second))


def _escape(name: str) -> str:
    return re.sub(r"([*?\[])", r"[\1]", name)
