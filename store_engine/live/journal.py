"""The journal of a run: every change of its catalogue and of its histories, in their order.

RUN/journal.db is a SQLite database in WAL mode. A change is on the disk when `append` returns, and
a reader of another process sees it then. One process writes: it holds the run's lock.

    journal = Journal(run_directory)
    for change in journal.since(sequence):     # what a replica has not applied yet
        ...

Source: https://www.sqlite.org/wal.html, https://www.sqlite.org/pragma.html#pragma_synchronous.
"""

import contextlib
import os
import re
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from store_engine.errors import InputError, shown
from store_engine.files.atomic import atomic_open
from store_engine.files.digest import is_sha256, sha256
from store_engine.files.lock import FileLock
from store_engine.files.regular import open_regular
from store_engine.live.changes import Change, Encoded, UserForgotten, What, decode, encode
from store_engine.runs.manifest import Manifest
from store_engine.runs.run_directory import RunDirectory

_FORMAT = "1"
_SCHEMA = (
    "CREATE TABLE meta(key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    "CREATE TABLE changes(sequence INTEGER PRIMARY KEY, kind TEXT NOT NULL, note TEXT NOT NULL, "
    "digest BLOB NOT NULL)",
    "CREATE TABLE items(sequence INTEGER, position INTEGER, item_id TEXT NOT NULL, text TEXT, "
    "sid BLOB, features BLOB, PRIMARY KEY(sequence, position)) WITHOUT ROWID",
    "CREATE TABLE events(sequence INTEGER, position INTEGER, user_id TEXT NOT NULL, "
    "item_id TEXT NOT NULL, time REAL NOT NULL, PRIMARY KEY(sequence, position)) WITHOUT ROWID",
    "CREATE INDEX events_of_user ON events(user_id)",
)
_MAX_CELL_BYTES = 1 << 26
_of_parents: list[object] = []  # connections and locks that a forked child must keep
_TIMEOUT_S = 30.0  # for a writer's commit, or for the recovery after one that was killed


class Journal:
    """The journal of one run; safe to use from several threads.

    Args:
        directory: The run. It need not have a journal yet: `append` begins one.
        manifest: The run that was loaded; None: what its run.json says now. A journal of another
            run is refused, also one that came later.

    Raises:
        InputError: The journal is damaged, of another form, or of another run.
    """

    def __init__(self, directory: RunDirectory, manifest: Manifest | None = None) -> None:
        self._directory, self.path = directory, directory.journal
        manifest = manifest or directory.read_manifest()
        listed = manifest.files.get(directory.sids.name)
        if listed is None:
            raise InputError(f"{directory.root}: a run without SIDs has no journal")
        self._sids = listed.sha256 or sha256(directory.sids)
        self._mutex = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._file: os.stat_result | None = None  # what the connection is to
        self._pid = os.getpid()
        self._lock: FileLock | None = None
        with self._reading():
            pass

    @classmethod
    def open(cls, run_dir: str | Path) -> "Journal":
        """Opens the journal of a run directory; see the class."""
        return cls(RunDirectory.open(run_dir))

    @property
    def is_writing(self) -> bool:
        """Whether this process is the one that may write."""
        return self._lock is not None and self._pid == os.getpid()

    @property
    def base(self) -> int:
        """The last change that the run's own files have; 0: the run is as it was trained."""
        with self._reading() as connection:
            return 0 if connection is None else _base(connection)

    @property
    def last_sequence(self) -> int:
        """Number of the last change, 0 if there was none."""
        with self._reading() as connection:
            return 0 if connection is None else _last(connection)

    def since(self, sequence: int) -> Iterator[Change]:
        """Reads the changes after one, in their order; each is read when it is asked for.

        Args:
            sequence: Number of the last change that the caller has; 0 for none.

        Raises:
            InputError: The changes after it are in the run's files by now (`base` is larger): load
                the run again; there never was such a change; or the journal is damaged.
        """
        last, base = self.last_sequence, self.base
        if not base <= sequence <= last:
            hint = "the run was compacted, load it again" if sequence < base else "there is no such"
            raise InputError(f"{self.path}: cannot go on after change {sequence}: {hint}")
        for number in range(sequence + 1, last + 1):
            yield self._change(number)

    def changes(self) -> Iterator[Change]:
        """Reads what has to be done to the run's files: since the base, and what outlived it.

        Raises:
            InputError: The journal is damaged.
        """
        with self._reading() as connection:
            if connection is None:
                return
            kept = connection.execute(
                "SELECT sequence FROM changes WHERE sequence <= ? ORDER BY sequence",
                (_base(connection),),
            ).fetchall()
        for (number,) in kept:
            yield self._change(number)
        yield from self.since(self.base)

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
                sequence = _last(connection) + 1
                _insert(connection, sequence, encoded)
        return sequence

    def begin_writing(self) -> None:
        """Takes the run's lock, and begins a journal if there is none.

        Raises:
            InputError: Another process writes to the run, the run was replaced since it was
                loaded, or it cannot be written to.
        """
        with self._mutex:
            self._leave_parent()
            if self._lock is not None:
                return
            root = self._directory.root
            try:
                lock = FileLock.acquire(self._directory.lock, str(root))
            except OSError as error:
                raise InputError(f"{root}: cannot be written: {error.strerror}") from error
            try:
                self._begin()
            except BaseException:
                lock.release()
                raise
            self._lock = lock

    def forget(self, user_id: str) -> int:
        """Deletes a user's events, overwrites where they stood, and notes that they are gone.

        Returns:
            Number of the change.

        Raises:
            InputError: As for `append`; or another process reads the journal just now, so that its
                log cannot be emptied: nothing is lost, call it again.
        """
        note = encode(UserForgotten.of(user_id))
        with self._mutex:
            self.begin_writing()
            with self._transaction() as connection:
                held = "SELECT DISTINCT sequence FROM events WHERE user_id = ?"
                numbers = [n for (n,) in connection.execute(held, (user_id,))]
                connection.execute("DELETE FROM events WHERE user_id = ?", (user_id,))
                for number in numbers:
                    digest = _encoded(connection, number)[0].digest(number)
                    connection.execute(
                        "UPDATE changes SET digest = ? WHERE sequence = ?", (digest, number)
                    )
                sequence = _last(connection) + 1
                _insert(connection, sequence, note)
            self._empty_log()
        return sequence

    def close(self) -> None:
        """Gives the lock back and closes the file."""
        with self._mutex:
            self._leave_parent()
            if self._connection is not None:
                self._connection.close()
            self._connection = self._file = None
            if self._lock is not None:
                self._lock.release()
                self._lock = None

    def _empty_log(self) -> None:
        """Leaves nothing of what was deleted in the database and in its log."""
        with self._errors("written"):
            assert self._connection is not None
            self._connection.execute("VACUUM")
            busy = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        if busy:
            raise InputError(f"{self.path}: another process reads it; forget the user once more")

    def _change(self, number: int) -> Change:
        with self._reading() as connection:
            if connection is None:
                raise InputError(f"{self.path}: is gone")
            try:
                encoded, digest = _encoded(connection, number)
                if encoded.digest(number) != digest:
                    raise ValueError("its content is not what was written")
                return Change(number, decode(encoded))
            except (ValueError, TypeError, RecursionError) as error:
                raise InputError(f"{self.path}: damaged: change {number}: {error}") from error

    def _begin(self) -> None:
        """Makes the file if there is none, and opens it to write."""
        if not self.path.exists():
            # a log without its database would be taken for that of the new one
            for name in (self._directory.journal_log, self._directory.journal_index):
                name.unlink(missing_ok=True)
            with self._errors("written"), atomic_open(self.path) as file:
                file.write(_new_database(self._sids, 0))
        with self._reading() as connection:
            assert connection is not None
            with self._errors("written"):
                if connection.execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
                    raise InputError(f"{self.path}: its file system cannot hold a log beside it")

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection | None]:
        """Lends the connection; None: there is no journal."""
        with self._mutex, self._errors("read"):
            self._reopen()
            yield self._connection

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._errors("written"):
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
        _of_parents.append((self._connection, self._lock))  # SQLite: not to be closed in a child
        self._connection, self._file, self._lock, self._pid = None, None, None, os.getpid()

    def _reopen(self) -> None:
        """Opens the file that is there now, unless it is open."""
        self._leave_parent()
        try:
            status = os.stat(self.path)
        except FileNotFoundError:
            status = None
        if self._file is not None and status is not None and os.path.samestat(status, self._file):
            return
        if self._lock is not None and self._file is not None:
            raise InputError(f"{self.path}: was removed or replaced while it was written to")
        if self._connection is not None:
            self._connection.close()
        self._connection = self._file = None
        if status is not None:
            open_regular(self.path).close()
            connection = _connect(self.path)
            try:
                self._check(connection)
            except BaseException:
                connection.close()
                raise
            self._connection, self._file = connection, status

    def _check(self, connection: sqlite3.Connection) -> None:
        """Refuses a database that is not ours, before it is used."""
        schema = connection.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")
        if sorted(sql for (sql,) in schema) != sorted(_SCHEMA):
            raise InputError(f"{self.path}: damaged: it has not the tables of a journal")
        (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise InputError(f"{self.path}: damaged: {found}")
        meta = dict(connection.execute("SELECT key, value FROM meta").fetchall())
        if meta.get("format") != _FORMAT:
            raise InputError(
                f"{self.path}: is of format {shown(meta.get('format'))}, not {_FORMAT}"
            )
        if not is_sha256(meta.get("sids")) or meta["sids"] != self._sids:
            raise InputError(
                f"{self.path}: is the journal of a run with other SIDs; load the run again if it "
                f"was replaced, else move the journal away"
            )
        base = meta.get("base")
        if not isinstance(base, str) or re.fullmatch("[0-9]{1,18}", base) is None:
            raise InputError(f"{self.path}: damaged: it has no base")
        base, last = int(base), _last(connection)
        query = "SELECT COUNT(*), MIN(sequence) FROM changes WHERE sequence > ?"
        count, first = connection.execute(query, (base,)).fetchone()
        if count != last - base or (count and first != base + 1):
            raise InputError(f"{self.path}: damaged: changes are missing")

    @contextlib.contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise InputError(f"{self.path}: cannot be {what}: {error}") from error
        except OSError as error:
            raise InputError(f"{self.path}: cannot be {what}: {error.strerror}") from error


def compacted_journal(kept: Sequence[tuple[int, What]], sids_sha256: str, base: int) -> bytes:
    """Makes the journal of a run whose files have all changes up to `base`.

    Args:
        kept: Number and content of the changes that the files do not have, ascending.
        sids_sha256: Digest of the run's sids.npz.
        base: Number of the last change.

    Returns:
        The database.
    """
    return _new_database(sids_sha256, base, kept)


def _new_database(sids_sha256: str, base: int, kept: Sequence[tuple[int, What]] = ()) -> bytes:
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        for sql in _SCHEMA:
            connection.execute(sql)
        meta = {"format": _FORMAT, "sids": sids_sha256, "base": str(base)}
        connection.executemany("INSERT INTO meta VALUES (?, ?)", meta.items())
        for sequence, what in kept:
            _insert(connection, sequence, encode(what))
        return connection.serialize()


def _connect(path: Path) -> sqlite3.Connection:
    """Opens a database that must be there, with nothing of what a hostile one could use."""
    # a WAL needs a writable folder; where there is none, nobody can be writing
    is_fixed = not os.access(path.parent, os.W_OK) or not os.access(path, os.W_OK)
    if is_fixed and path.with_name(f"{path.name}-wal").exists():
        is_fixed = False  # its log has to be read too: SQLite says what is missing
    mode = "ro&immutable=1" if is_fixed else "rw"
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}",
        uri=True,
        timeout=_TIMEOUT_S,
        isolation_level=None,
        check_same_thread=False,
    )
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _MAX_CELL_BYTES)
    for pragma in ("trusted_schema = OFF", "cell_size_check = ON", "synchronous = FULL"):
        connection.execute(f"PRAGMA {pragma}")
    if not is_fixed:
        connection.execute("PRAGMA secure_delete = ON")
    return connection


def _insert(connection: sqlite3.Connection, sequence: int, encoded: Encoded) -> None:
    digest = encoded.digest(sequence)
    change = (sequence, encoded.kind, encoded.note, digest)
    connection.execute("INSERT INTO changes VALUES (?, ?, ?, ?)", change)
    items = ((sequence, *row) for row in encoded.items)
    connection.executemany("INSERT INTO items VALUES (?, ?, ?, ?, ?, ?)", items)
    events = ((sequence, *row) for row in encoded.events)
    connection.executemany("INSERT INTO events VALUES (?, ?, ?, ?, ?)", events)


def _encoded(connection: sqlite3.Connection, number: int) -> tuple[Encoded, bytes]:
    """The rows of a change, and its digest."""
    query = "SELECT kind, note, digest FROM changes WHERE sequence = ?"
    found = connection.execute(query, (number,)).fetchone()
    if found is None or not all(map(isinstance, found, (str, str, bytes))):
        raise ValueError("it is missing")
    rows = []
    for columns, table in (
        ("position, item_id, text, sid, features", "items"),
        ("position, user_id, item_id, time", "events"),
    ):
        query = f"SELECT {columns} FROM {table} WHERE sequence = ? ORDER BY position"
        rows.append(connection.execute(query, (number,)).fetchall())
    return Encoded(found[0], found[1], *rows), found[2]


def _base(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT value FROM meta WHERE key = 'base'").fetchone()[0])


def _last(connection: sqlite3.Connection) -> int:
    found = connection.execute("SELECT MAX(sequence) FROM changes").fetchone()[0]
    return max(_base(connection), found or 0)
