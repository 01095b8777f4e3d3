"""The journal of a run: every change of its catalogue and of its histories, in their order.

RUN/journal.db is a SQLite database in WAL mode. A change is on the disk when `append` returns, and
a reader of another process sees it then. One process writes: it holds the run's lock.

    journal = Journal.open("runs/mine")
    for change in journal.since(sequence):     # what a replica has not applied yet
        ...
"""

import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

from store_engine.errors import InputError
from store_engine.files.atomic import atomic_open
from store_engine.files.digest import sha256
from store_engine.files.lock import FileLock
from store_engine.files.regular import open_regular
from store_engine.live.changes import Change, UserForgotten, What, encode
from store_engine.live.journal_file import (
    Header,
    base_number,
    check,
    connect,
    delete_events,
    insert,
    last_number,
    new_database,
    read_change,
)
from store_engine.runs.manifest import Manifest
from store_engine.runs.run_directory import RunDirectory

_of_parents: list[object] = []  # connections and locks that a forked child must keep


class Journal:
    """The journal of one run; safe to use from several threads.

    Args:
        directory: The run. It need not have a journal yet: `append` begins one.
        manifest: The run that was loaded; None: what its run.json says now. A journal of another
            run is refused, also one that came later, unless it goes on with this one.

    Raises:
        InputError: The journal is damaged, of another form, or of another run.
    """

    def __init__(self, directory: RunDirectory, manifest: Manifest | None = None) -> None:
        self._directory, self.path = directory, directory.journal
        self._sids = _digest_of_sids(directory, manifest or directory.read_manifest())
        self._mutex = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._file: os.stat_result | None = None  # what the connection is to
        self._is_writing, self._pid = False, os.getpid()
        self.header = Header(self._sids, 0)
        self.check()

    @classmethod
    def open(cls, run_dir: str | Path) -> "Journal":
        """Opens the journal of a run directory; see the class."""
        return cls(RunDirectory.open(run_dir))

    def go_on(self, manifest: Manifest) -> None:
        """Goes on with the journal of the run as it was rewritten by this process.

        Args:
            manifest: Of the rewritten run.
        """
        with self._mutex:
            self.close(keep_lock=True)
            self._sids = _digest_of_sids(self._directory, manifest)
            self.begin_writing()

    def check(self) -> None:
        """Looks again whether the journal that is there now is that of the run, or goes on with it.

        Raises:
            InputError: It is not.
        """
        with self._reading():
            pass

    @property
    def base(self) -> int:
        """The last change that the run's own files have; 0: the run is as it was trained."""
        with self._reading() as connection:
            return 0 if connection is None else base_number(connection)

    @property
    def last_sequence(self) -> int:
        """Number of the last change, 0 if there was none."""
        with self._reading() as connection:
            return 0 if connection is None else last_number(connection)

    def since(self, sequence: int) -> Iterator[Change]:
        """Reads the changes after one, in their order; each is read when it is asked for.

        Args:
            sequence: Number of the last change that the caller has; 0 for none.

        Raises:
            InputError: The changes after it are in the run's files by now (`base` is larger): load
                the run again; there never was such a change; or the journal is damaged.
        """
        with self._mutex:
            last, base = self.last_sequence, self.base
        if not base <= sequence <= last:
            hint = "the run was compacted, load it again" if sequence < base else "there is no such"
            raise InputError(f"{self.path}: cannot go on after change {sequence}: {hint}")
        for number in range(sequence + 1, last + 1):
            yield self._change(number)

    def changes(self) -> Iterator[Change]:
        """Reads all that has to be done to the run's files: what they lack.

        Raises:
            InputError: The journal is damaged, or is that of the run after it was compacted.
        """
        if self.header.sids != self._sids:
            raise InputError(f"{self.path}: the run was compacted, load it again")
        query = "SELECT sequence FROM changes ORDER BY sequence"
        with self._reading() as connection:
            numbers = [] if connection is None else connection.execute(query).fetchall()
        for (number,) in numbers:
            yield self._change(number)

    def append(self, what: What) -> int:
        """Writes a change to the disk; when this returns, no crash can lose it.

        Returns:
            Its number.

        Raises:
            InputError: Another process writes, or it cannot be written. Nothing was changed then,
                or, where the disk failed at the last moment, `since` tells.
        """
        encoded = encode(what)
        with self._mutex:
            self.begin_writing()
            with self._transaction() as connection:
                sequence = last_number(connection) + 1
                insert(connection, sequence, encoded)
        return sequence

    def begin_writing(self) -> None:
        """Takes the run's lock, and begins a journal if there is none.

        Raises:
            InputError: Another process writes to the run, the run was replaced since it was
                loaded, or it cannot be written to.
        """
        with self._mutex:
            self._leave_parent()
            if self._is_writing:
                return
            directory, lock = self._directory, self._directory.lock_held
            try:
                directory.lock_held = lock or FileLock.acquire(directory.lock, str(directory.root))
            except OSError as error:
                raise InputError(
                    f"{directory.root}: cannot be written: {error.strerror}"
                ) from error
            try:
                self._begin()
            except BaseException:
                if lock is None:
                    directory.close()
                raise
            self._is_writing = True

    def forget(self, user_id: str) -> int:
        """Deletes a user's events, overwrites where they stood, and notes that they are gone.

        Returns:
            Number of the change.

        Raises:
            InputError: As for `append`; or another process reads the journal just now, so that its
                log cannot be emptied: nothing is lost, call it again.
        """
        with self._mutex:
            self.begin_writing()
            with self._transaction() as connection:
                delete_events(connection, user_id)
                sequence = last_number(connection) + 1
                insert(connection, sequence, encode(UserForgotten.of(user_id)))
            with self._errors("written"):
                connection.execute("VACUUM")
                busy = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        if busy:
            raise InputError(f"{self.path}: another process reads it; forget the user once more")
        return sequence

    def close(self, *, keep_lock: bool = False) -> None:
        """Closes the file and gives the run's lock back, unless somebody goes on to write there."""
        with self._mutex:
            self._leave_parent()
            if self._connection is not None:
                self._connection.close()
            self._connection = self._file = None
            if self._is_writing and not keep_lock:
                self._directory.close()
            self._is_writing = False

    def _change(self, number: int) -> Change:
        with self._reading() as connection:
            if connection is None:
                raise InputError(f"{self.path}: is gone")
            if number <= base_number(connection) and self.header.sids != self._sids:
                raise InputError("the run was compacted, load it again")
            return read_change(connection, number)

    def _begin(self) -> None:
        """Makes the file if there is none, and opens it to write.

        Raises:
            InputError: It cannot be made, or is not that of the run that was loaded.
        """
        if not self.path.exists():
            if _digest_of_sids(self._directory, self._directory.read_manifest()) != self._sids:
                raise InputError("the run was replaced since it was loaded, load it again")
            # a log without its database would be taken for that of the new one
            for name in (self._directory.journal_log, self._directory.journal_index):
                name.unlink(missing_ok=True)
            with self._errors("written"), atomic_open(self.path) as file:
                file.write(new_database(Header(self._sids, 0)))
        with self._reading() as connection, self._errors("written"):
            assert connection is not None
            if connection.execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
                raise InputError("its file system cannot hold a log beside it")

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection | None]:
        """Lends the connection; None: there is no journal."""
        with self._mutex, self._errors("read"):
            self._reopen()
            yield self._connection

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._errors("written"):
            self._reopen()
            assert self._connection is not None
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")
                raise

    def _leave_parent(self) -> None:
        """Forgets, in a forked child, what belongs to its parent: the connection and the lock."""
        if self._pid == os.getpid():
            return
        # SQLite: not to be closed in a child
        _of_parents.append((self._connection, self._directory.lock_held))
        self._connection = self._file = self._directory.lock_held = None
        self._is_writing, self._pid = False, os.getpid()

    def _reopen(self) -> None:
        """Opens the file that is there now, unless it is open."""
        self._leave_parent()
        try:
            status = os.stat(self.path)
        except FileNotFoundError:
            status = None
        if self._file is not None and status is not None and os.path.samestat(status, self._file):
            return
        if self._is_writing:
            raise InputError("was removed or replaced while it was written to")
        if self._connection is not None:
            self._connection.close()
        self._connection = self._file = None
        if status is not None:
            open_regular(self.path).close()
            connection = connect(self.path)
            try:
                header = check(connection)
                if self._sids not in (header.sids, *header.before):
                    raise InputError(
                        "is the journal of a run with other SIDs; load the run again if it was "
                        "replaced, else move the journal away"
                    )
            except BaseException:
                connection.close()
                raise
            self._connection, self._file, self.header = connection, status, header

    @contextlib.contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        """Names the file in every error about it."""
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            reason = getattr(error, "strerror", None) or error
            raise InputError(f"{self.path}: cannot be {what}: {reason}") from error
        except InputError as error:
            if str(error).startswith(f"{self.path}: "):
                raise
            raise InputError(f"{self.path}: {error}") from error


def _digest_of_sids(directory: RunDirectory, manifest: Manifest) -> str:
    listed = manifest.files.get(directory.sids.name)
    if listed is None:
        raise InputError(f"{directory.root}: a run without SIDs has no journal")
    return listed.sha256 or sha256(directory.sids)
