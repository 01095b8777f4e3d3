import csv

import pytest

from benchmarks.quality.cold_split import (
    ColdRule,
    cold_examples,
    cold_items,
    read_events,
    write_split,
)
from store_engine.config import DataConfig
from store_engine.errors import InputError

DATA = DataConfig(name="files", text_fields=["title"])
# user, item, time; not in the order of time
EVENTS = [
    ("u", "a", 1),
    ("u", "b", 2),
    ("u", "new", 9),
    ("u", "c", 10),
    ("v", "b", 3),
    ("v", "new", 5),
    ("v", "a", 7),
    ("v", "late", 9),
    ("v", "new", 11),
    ("w", "c", 2),
    ("w", "a", 1),
]
ITEMS = ["a", "b", "c", "new", "late", "never"]


@pytest.fixture
def folder(tmp_path):
    for name, header, rows in (
        ("items.csv", ("item_id", "title"), [(item, f'"{item}", a, b') for item in ITEMS]),
        ("interactions.csv", ("user_id", "item_id", "timestamp"), EVENTS),
    ):
        with (tmp_path / name).open("w", newline="") as file:
            csv.writer(file).writerows([header, *rows])
    return tmp_path


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        # first events: a 1, c 2, b 2 (higher up in the file), new 5, late 9
        ("newest:0.15", ["late"]),
        ("newest:0.35", ["late", "new"]),
        ("newest:0.5", ["c", "late", "new"]),
        # events: late 1, b 2, c 2, new 3, a 3
        ("rarest:0.1", ["late"]),
        ("rarest:0.5", ["b", "c", "late"]),
    ],
)
def test_which_items_are_cold(folder, rule, expected):
    events = read_events(folder, DATA)
    assert cold_items(events, ITEMS, ColdRule.parse(rule), seed=0) == set(expected)


def test_an_example_is_a_cold_event_after_two_warm_ones(folder):
    found = cold_examples(read_events(folder, DATA), {"new", "late"}, 10, seed=0)
    pairs = sorted(zip(found.targets, found.histories, strict=True))
    # v's first "new" comes after one warm event; cold items are in no history
    assert pairs == [("late", ["b", "a"]), ("new", ["a", "b"]), ("new", ["b", "a"])]
    one = cold_examples(read_events(folder, DATA), {"new", "late"}, 1, seed=0)
    assert len(one.targets) == 1
    assert one == cold_examples(read_events(folder, DATA), {"new", "late"}, 1, seed=0)


def test_the_warm_data_set_has_no_trace_of_cold_items(folder, tmp_path):
    work = tmp_path / "work"
    write_split(folder, work, DATA, {"new", "late"})
    assert rows_of(work / "cold_items.csv") == rows_of(folder / "items.csv")[3:5]
    warm = rows_of(work / "warm" / "items.csv")
    assert [row["item_id"] for row in warm] == ["a", "b", "c", "never"]
    assert warm[0] == {"item_id": "a", "title": '"a", a, b'}
    events = [
        (r["user_id"], r["item_id"], int(r["timestamp"]))
        for r in rows_of(work / "warm" / "interactions.csv")
    ]
    assert events == [event for event in EVENTS if event[1] not in ("new", "late")]


@pytest.mark.parametrize(
    "text", ["newest", "oldest:0.1", "rarest:0", "newest:1", "newest:nan", "newest:x"]
)
def test_refuses_another_rule(text):
    with pytest.raises(InputError, match="newest:SHARE or rarest:SHARE"):
        ColdRule.parse(text)


def test_refuses_to_hold_all_items_out(folder):
    with pytest.raises(InputError, match="5 items cannot be held out of 5"):
        cold_items(read_events(folder, DATA), ITEMS, ColdRule("newest", 0.9), seed=0)
