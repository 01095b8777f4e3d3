import os
import sqlite3

import numpy as np
import pytest
from engines import catalog_of

from store_engine.data.catalog import Catalog
from store_engine.errors import InputError
from store_engine.live.changes import (
    Event,
    EventsAdded,
    ItemsAdded,
    ItemsRemoved,
    ItemsUpdated,
    UserForgotten,
)
from store_engine.live.journal import Journal
from store_engine.live.journal_file import read_rows
from store_engine.runs.run_directory import RunDirectory

FIRST = Catalog(("ä\n", "b"), {"title": ("Тест \x00", ""), "brand": ("", "x" * 5000)})
SIDS = np.array([[1, 2, 3], [5, 4, 6]], dtype=np.int32)
FEATURES = np.array([[0.5, -1], [2, 3]], dtype=np.float32)
EVENTS = EventsAdded((Event("u", "ä\n", 1.5), Event("v", "b", -2.0), Event("u", "b", 1.5)))


def whats(changes):
    """Changes in a form that can be compared."""
    plain = []
    for sequence, what in changes:
        if isinstance(what, ItemsAdded):
            features = None if what.features is None else what.features.tolist()
            plain.append((sequence, type(what), what.items, what.sids.tolist(), features))
        else:
            plain.append((sequence, what))
    return plain


def fill(journal):
    return [
        journal.append(what)
        for what in (
            ItemsAdded(FIRST, SIDS, FEATURES),
            ItemsUpdated(catalog_of(2), SIDS),
            ItemsRemoved(("ä\n", "item 7")),
            EVENTS,
        )
    ]


WRITTEN = [
    (1, ItemsAdded, FIRST, SIDS.tolist(), FEATURES.tolist()),
    (2, ItemsUpdated, catalog_of(2), SIDS.tolist(), None),
    (3, ItemsRemoved(("ä\n", "item 7"))),
    (4, EVENTS),
]


def test_what_was_appended_is_read_by_anyone_in_order(run_dir):
    reader, writer = Journal.open(run_dir), Journal.open(run_dir)
    assert reader.last_sequence == 0
    assert list(reader.since(0)) == []
    assert fill(writer) == [1, 2, 3, 4]
    assert whats(reader.since(0)) == whats(writer.since(0)) == WRITTEN
    assert whats(reader.since(3)) == WRITTEN[3:]
    assert reader.last_sequence == 4
    writer.close()
    assert whats(Journal.open(run_dir).changes()) == WRITTEN


def test_there_is_one_writer(run_dir):
    first, second = Journal.open(run_dir), Journal.open(run_dir)
    fill(first)
    with pytest.raises(InputError, match=f"in use by process {os.getpid()}"):
        second.append(EVENTS)
    with pytest.raises(InputError, match="in use by process"):
        RunDirectory.open_to_write(run_dir)
    first.close()
    assert second.append(EVENTS) == 5


def test_a_forked_child_reads_and_cannot_write(run_dir):
    journal = Journal.open(run_dir)
    fill(journal)
    child = os.fork()
    if child == 0:
        try:
            assert whats(journal.since(0)) == WRITTEN
            with pytest.raises(InputError, match="in use by process"):
                journal.append(EVENTS)
        except BaseException:
            os._exit(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert journal.append(EVENTS) == 5
    assert len(list(Journal.open(run_dir).since(0))) == 5


def test_a_forgotten_user_leaves_no_byte(run_dir):
    journal = Journal.open(run_dir)
    journal.append(EventsAdded((Event("secret-user", "b", 0.0), Event("v", "b", 1.0))))
    assert journal.forget("secret-user") == 2
    assert whats(journal.since(0)) == [
        (1, EventsAdded((Event("v", "b", 1.0),))),
        (2, UserForgotten.of("secret-user")),
    ]
    for path in run_dir.iterdir():
        if path.name.startswith("journal"):
            assert b"secret-user" not in path.read_bytes(), path
    journal.close()
    assert b"secret-user" not in (run_dir / "journal.db").read_bytes()


def test_goes_on_only_from_a_change_that_there_was(run_dir):
    journal = Journal.open(run_dir)
    fill(journal)
    for wrong in (-1, 5):
        with pytest.raises(InputError, match=r"there is no such|load it again"):
            list(journal.since(wrong))


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("UPDATE items SET text = replace(text, 'x', 'y') WHERE position = 1", "not what was"),
        ("UPDATE events SET time = 9", "change 4: its content is not what was written"),
        ("DELETE FROM events WHERE position = 0", "change 4: its content"),
        ("DELETE FROM changes WHERE sequence = 2", "changes are missing"),
        ("UPDATE meta SET value = 'x' WHERE key = 'base'", "not say which run"),
        ("UPDATE meta SET value = '2' WHERE key = 'format'", "is of format '2'"),
        (f"UPDATE meta SET value = '{'0' * 64}' WHERE key = 'sids'", "of a run with other SIDs"),
        ("CREATE TRIGGER t AFTER INSERT ON changes BEGIN DELETE FROM items; END", "not the tables"),
        ("CREATE VIEW v AS SELECT 1", "not the tables"),
        ("DROP TABLE events", "not the tables"),
        ("UPDATE changes SET kind = x'00'", "missing"),
    ],
)
def test_refuses_what_was_not_written_by_it(sql, message, run_dir):
    with_changes(run_dir, sql)
    with pytest.raises(InputError, match=message) as caught:
        list(Journal.open(run_dir).changes())
    assert str(run_dir / "journal.db") in str(caught.value)


def with_changes(run_dir, sql):
    journal = Journal.open(run_dir)
    fill(journal)
    journal.close()
    connection = sqlite3.connect(run_dir / "journal.db")
    connection.execute(sql)
    connection.commit()
    connection.close()


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("items.text", "[]", "must map fields"),
        ("items.text", '{"title": 3}', "must map fields"),
        ("items.text", '{"other": "x"}', "different fields"),
        ("items.text", "[" * 100_000, "change 1"),
        ("items.sid", b"123", "of 4 bytes"),
        ("items.sid", b"\x01\0\0\0" * 40, "as many numbers|1 to 16 codes"),
        ("items.item_id", "", "an item id must be text"),
        ("items.item_id", b"\xff", "an item id must be text"),
        ("events.time", "soon", "must be a number"),
        ("events.time", float("inf"), "must be a number"),
        ("changes.kind", "drop", "no change of kind 'drop'"),
    ],
)
def test_refuses_hostile_values_although_their_digest_is_right(column, value, message, run_dir):
    with_changes(run_dir, "SELECT 1")
    table, name = column.split(".")
    connection = sqlite3.connect(run_dir / "journal.db")
    first = "" if table == "changes" else "AND position = 0"
    connection.execute(f"UPDATE {table} SET {name} = ? WHERE sequence IN (1, 4) {first}", (value,))
    for number in (1, 4):
        digest = read_rows(connection, number)[0].digest(number)
        connection.execute("UPDATE changes SET digest = ? WHERE sequence = ?", (digest, number))
    connection.commit()
    connection.close()
    with pytest.raises(InputError, match=message):
        list(Journal.open(run_dir).changes())


@pytest.mark.parametrize("damage", ["empty", "cut", "noise", "text", "folder", "fifo"])
def test_refuses_a_damaged_file(damage, run_dir):
    with_changes(run_dir, "SELECT 1")
    path = run_dir / "journal.db"
    content = path.read_bytes()
    path.unlink()
    if damage == "folder":
        path.mkdir()
    elif damage == "fifo":
        os.mkfifo(path)
    else:
        middle = len(content) // 2
        path.write_bytes(
            {
                "empty": b"",
                "cut": content[:middle],
                "noise": content[:middle] + os.urandom(4096) + content[middle + 4096 :],
                "text": b"not a database " * 500,
            }[damage]
        )
    with pytest.raises(InputError, match=r"journal\.db"):
        list(Journal.open(run_dir).changes())


def test_reads_where_nothing_can_be_written(run_dir, monkeypatch):
    with_changes(run_dir, "SELECT 1")
    before = sorted(path.name for path in run_dir.iterdir())
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    journal = Journal.open(run_dir)
    assert whats(journal.since(0)) == WRITTEN
    assert sorted(path.name for path in run_dir.iterdir()) == before
