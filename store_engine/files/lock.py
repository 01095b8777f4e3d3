"""A lock that one process holds until it ends, in a file that says who.

The system releases it with the process, however that ends; the file stays and means nothing.
"""

import contextlib
import errno
import fcntl
import os
import socket
import time
import warnings
from io import FileIO
from pathlib import Path

from store_engine.errors import InputError

_TRIES = 5  # `lock_owner` of another process may hold the lock for a moment


class FileLock:
    """An exclusive lock on a file, held as long as this object lives; made by `acquire`."""

    def __init__(self, file: FileIO, path: Path) -> None:
        self._file, self.path = file, path

    @classmethod
    def acquire(cls, path: Path, what: str) -> "FileLock":
        """Takes the lock, or says who has it.

        Args:
            path: The lock file; made if it is missing. Its folder must exist.
            what: What is locked, for the message.

        Raises:
            InputError: Another process holds the lock.
            FileNotFoundError: The folder is gone.
            OSError: The file cannot be made or opened.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        while True:
            file = FileIO(os.open(path, flags, 0o666), "r+")
            try:
                _lock(file.fileno(), path, what)
                if os.path.samestat(os.fstat(file.fileno()), os.lstat(path)):
                    file.truncate(0)
                    file.write(f"{os.getpid()} {socket.gethostname()}\n".encode())
                    return cls(file, path)
            except FileNotFoundError:
                pass
            except BaseException:
                file.close()
                raise
            file.close()  # the file was removed or replaced while we took its lock

    def moved(self, path: Path) -> "FileLock":
        """Returns the same lock, whose file has another path now."""
        return FileLock(self._file, path)

    def release(self) -> None:
        """Gives the lock back; once it is given back, does nothing."""
        self._file.close()


def lock_owner(path: Path) -> str | None:
    """Says which process holds a lock, as "process PID on HOST"; None if none does.

    Raises:
        OSError: The file cannot be opened.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _owner(handle)
    except OSError:
        return None
    finally:
        os.close(handle)
    return None


def _lock(handle: int, path: Path, what: str) -> None:
    try:
        for _ in range(_TRIES - 1):
            with contextlib.suppress(BlockingIOError):
                return fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            time.sleep(0.02)
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise InputError(f"{what}: in use by {_owner(handle)} (it holds {path})") from error
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL):
            raise
        warnings.warn(
            f"{path}: this file system has no locks ({error.strerror}); "
            f"take care that no other process writes there",
            stacklevel=4,
        )


def _owner(handle: int) -> str:
    pid, _, host = os.pread(handle, 300, 0).decode("ascii", "replace").strip().partition(" ")
    if not pid.isdigit():  # it has the lock and has not yet written its name
        return "another process"
    return f"process {pid} on {host}" if host.isprintable() else f"process {pid}"
