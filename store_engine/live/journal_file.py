"""The SQLite database of a journal: its tables, its rows, and what of a file is not believed.

Source: https://www.sqlite.org/wal.html, https://www.sqlite.org/security.html.
"""

import contextlib
import os
import re
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from store_engine.errors import InputError, shown
from store_engine.files.digest import is_sha256
from store_engine.live.changes import Change, Encoded, decode, encode

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
_TIMEOUT_S = 30.0  # for a writer's commit, or for the recovery after one that was killed


class Header(NamedTuple):
    """Which run a journal belongs to.

    Args:
        sids: SHA-256 of the sids.npz that the changes behind `base` go with.
        base: Number of the last change that the run's files have.
        before: The same digests of the run's files before they were compacted, the latest first.
    """

    sids: str
    base: int
    before: tuple[str, ...] = ()


def new_database(header: Header, changes: Iterable[Change] = ()) -> bytes:
    """Makes a journal.

    Args:
        header: The run it belongs to.
        changes: What it holds.
    """
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        for sql in _SCHEMA:
            connection.execute(sql)
        meta = {"format": _FORMAT, "sids": header.sids, "base": str(header.base)}
        meta["before"] = " ".join(header.before)
        connection.executemany("INSERT INTO meta VALUES (?, ?)", meta.items())
        for sequence, what in changes:
            insert(connection, sequence, encode(what))
        return connection.serialize()


def connect(path: Path) -> sqlite3.Connection:
    """Opens a database that must be there, with nothing of what a hostile one could use.

    Raises:
        sqlite3.Error: It cannot be opened.
    """
    # a WAL needs a writable folder; where there is none, nobody can be writing
    is_fixed = not os.access(path.parent, os.W_OK) or not os.access(path, os.W_OK)
    if is_fixed and path.with_name(f"{path.name}-wal").exists():
        is_fixed = False  # its log has to be read too: SQLite says what is missing
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={'ro&immutable=1' if is_fixed else 'rw'}",
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


def check(connection: sqlite3.Connection) -> Header:
    """Refuses a database that is no journal, before it is used.

    Raises:
        InputError: It is none, or damaged. The message completes "PATH: ...".
    """
    schema = connection.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")
    if sorted(sql for (sql,) in schema) != sorted(_SCHEMA):
        raise InputError("damaged: it has not the tables of a journal")
    (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if found != "ok":
        raise InputError(f"damaged: {found}")
    meta = dict(connection.execute("SELECT key, value FROM meta").fetchall())
    if meta.get("format") != _FORMAT:
        raise InputError(f"is of format {shown(meta.get('format'))}, not {_FORMAT}")
    match meta:
        case {"sids": str(sids), "base": str(base), "before": str(before)} if re.fullmatch(
            "[0-9]{1,18}", base
        ) and all(map(is_sha256, [sids, *before.split()])):
            header = Header(sids, int(base), tuple(before.split()))
        case _:
            raise InputError("damaged: it does not say which run it belongs to")
    last = last_number(connection)
    query = "SELECT COUNT(*), MIN(sequence) FROM changes WHERE sequence > ?"
    count, first = connection.execute(query, (header.base,)).fetchone()
    if count != last - header.base or (count and first != header.base + 1):
        raise InputError("damaged: changes are missing")
    return header


def base_number(connection: sqlite3.Connection) -> int:
    """Number of the last change that the run's files have."""
    return int(connection.execute("SELECT value FROM meta WHERE key = 'base'").fetchone()[0])


def last_number(connection: sqlite3.Connection) -> int:
    """Number of the last change."""
    found = connection.execute("SELECT MAX(sequence) FROM changes").fetchone()[0]
    return max(base_number(connection), found or 0)


def insert(connection: sqlite3.Connection, sequence: int, encoded: Encoded) -> None:
    """Writes a change."""
    digest = encoded.digest(sequence)
    change = (sequence, encoded.kind, encoded.note, digest)
    connection.execute("INSERT INTO changes VALUES (?, ?, ?, ?)", change)
    items = ((sequence, *row) for row in encoded.items)
    connection.executemany("INSERT INTO items VALUES (?, ?, ?, ?, ?, ?)", items)
    events = ((sequence, *row) for row in encoded.events)
    connection.executemany("INSERT INTO events VALUES (?, ?, ?, ?, ?)", events)


def read_change(connection: sqlite3.Connection, number: int) -> Change:
    """Reads a change.

    Raises:
        InputError: It is missing or damaged. The message completes "PATH: ...".
    """
    try:
        encoded, digest = read_rows(connection, number)
        if encoded.digest(number) != digest:
            raise ValueError("its content is not what was written")
        return Change(number, decode(encoded))
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError(f"damaged: change {number}: {error}") from error


def read_rows(connection: sqlite3.Connection, number: int) -> tuple[Encoded, bytes]:
    """Reads the rows of a change, and the digest that they were written with.

    Raises:
        ValueError: It is missing.
    """
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


def delete_events(connection: sqlite3.Connection, user_id: str) -> None:
    """Deletes a user's events, within a transaction, from all changes.

    Raises:
        ValueError: A change is damaged.
    """
    held = "SELECT DISTINCT sequence FROM events WHERE user_id = ?"
    numbers = [number for (number,) in connection.execute(held, (user_id,))]
    connection.execute("DELETE FROM events WHERE user_id = ?", (user_id,))
    for number in numbers:
        digest = read_rows(connection, number)[0].digest(number)
        update = "UPDATE changes SET digest = ? WHERE sequence = ?"
        connection.execute(update, (digest, number))
