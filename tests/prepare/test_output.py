"""A dry run says what the preparation says, of the rows that it reads, and leaves nothing."""

import tempfile
from pathlib import Path

import pyarrow as pa
import pytest
from data_files import write_files

pytest.importorskip("duckdb", reason="the extra `prepare`")

from store_engine.errors import InputError
from store_engine.prepare import output
from store_engine.prepare.output import look, prepare
from store_engine.prepare.readers.discover import Choices, discover
from store_engine.prepare.rules import Rules

ITEMS = "item_id,title\n" + "".join(f"i{n},Thing {n}\n" for n in range(4))
HEADER = "user_id,item_id,time,quantity"
ROWS = [f"u{n % 3},i{n % 4},{n},{n % 5}" for n in range(40)]


@pytest.fixture
def found(tmp_path):
    """Finds files: name -> content."""

    def find(files, **choices):
        return discover([write_files(tmp_path / "source", files)], [], [], Choices(**choices))

    return find


def csv(rows, header=HEADER):
    return "\n".join([header, *rows]) + "\n"


@pytest.mark.parametrize(
    ("rows", "rules"),
    [
        (ROWS, {}),
        ([*ROWS, ",i1,1,1", "u1,i1,soon,1"], {}),
        ([*ROWS, ",i1,1,1", "u1,i1,soon,1"], {"on_error": "drop"}),
        ([*ROWS, "u1,i9,99,1", ROWS[0]], {}),
        ([*ROWS, "u1,i9,99,1", ROWS[0]], {"unknown_items": "drop", "positive": "quantity > 0"}),
        ([row.replace(",i", ",i", 1).rsplit(",", 2)[0] + ",then,1" for row in ROWS], {}),
        (ROWS, {"positive": "amount > 0"}),
        (ROWS, {"min_user": 99}),
    ],
    ids=[
        "quantities", "bad", "bad dropped", "unknown", "dropped", "times", "column", "k-core"
    ],
)  # fmt: skip
def test_a_dry_run_says_what_the_preparation_says(rows, rules, found, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    data = found({"e.csv": csv(rows), "i.csv": ITEMS})
    said = []
    for run in (
        lambda: look(data, Rules(**rules), None, False),
        lambda: prepare(data, Rules(**rules), tmp_path / "out", True, lambda step: None),
    ):
        try:
            report = run().as_json()
            part = report.pop("max_rows", 0), report.pop("cut", [])
            assert part == ((0, []) if said else (200_000, []))
            said.append(report)
        except InputError as error:
            said.append(str(error))
        assert {path.name for path in tmp_path.iterdir()} <= {"source", "out"}
    assert said[0] == said[1]
    is_refused = isinstance(said[0], str)
    assert is_refused or said[0]["num_events"] > 0
    if rules.get("positive") is None:
        assert "quantity is <= 0" in (said[0] if is_refused else said[0]["warnings"][0]) or (
            "no known form fits the times" in said[0] or "--min-user 99" in said[0]
        )


def _table(rows):
    columns = zip(*(row.split(",") for row in rows), strict=True)
    return pa.table(dict(zip(HEADER.split(","), columns, strict=True)))


def _json(rows):
    row = '{{"user_id": "{}", "item_id": "{}", "time": {}, "quantity": {}}}\n'
    return "".join(row.format(*line.split(",")) for line in rows)


_QUOTED = [f'{row},"a ""note""\nof two lines"' for row in ROWS]
_PARTS = {f"e{n}.csv": csv(ROWS[n * 8 : n * 8 + 8]) for n in range(5)}


@pytest.mark.parametrize(
    "files",
    [
        {"e.csv": csv(ROWS)},
        {"e.csv.gz": csv(ROWS)},
        {"e.csv": csv(ROWS).encode("utf-16")},
        {"e.csv": "sep=;\n" + csv(ROWS).replace(",", ";")},
        {"e.csv": csv(_QUOTED, f"{HEADER},note")},
        {"e.csv": csv(_QUOTED, f"{HEADER},note").replace("\n", "\r\n")},
        {"e.csv": csv([*ROWS[:3], '"u1,i2,3,1', *ROWS[4:]])},
        {"e.tsv": csv(ROWS).replace(",", "\t")},
        {"e.jsonl": _json(ROWS)},
        {"e.json": _json(ROWS).replace('"', "'")},
        {"e.parquet": _table(ROWS)},
        _PARTS,
    ],
    ids=[
        "csv", "gzip", "utf-16", "sep", "quoted", "cr lf", "stray quote", "tsv", "jsonl",
        "literals", "parquet", "parts",
    ],
)  # fmt: skip
@pytest.mark.parametrize("num_rows", [10, 39, 40, 41])
def test_the_first_rows_are_what_it_reads(files, num_rows, found, monkeypatch):
    monkeypatch.setattr(output, "_LOOK_ROWS", num_rows)
    report = look(found({**files, "i.csv": ITEMS}), Rules(on_error="drop"), None, False)
    is_cut = num_rows < 40
    if not report.bad:
        assert report.cut == (["events"] if is_cut else [])
        assert report.num_read == min(num_rows, 40)
    first = f"the first {num_rows} rows of events and all rows of items were read"
    assert report.part().startswith(first if report.cut else "all rows were read")


def test_what_a_part_cannot_tell_is_not_told(found, monkeypatch):
    monkeypatch.setattr(output, "_LOOK_ROWS", 2)
    data = found({"e.csv": csv(ROWS), "i.csv": ITEMS})
    report = look(data, Rules(min_user=9), None, False)
    assert report.cut == ["events", "items"]
    assert report.part().endswith(
        "not looked for: who has too few events, whether items are unknown"
    )
    assert [name for name, _ in report.counts()] == [
        "events read", "duplicates (same user, item and time), dropped"
    ]  # fmt: skip
    bad = found({"e.csv": csv([ROWS[0], ",i1,1,1", *ROWS[1:]])})
    with pytest.raises(InputError, match=r"e\.csv \(its first 2 rows\): bad rows: 1 x no user id"):
        look(bad, Rules(), None, False)


def test_a_place_that_is_taken_is_told(found, tmp_path):
    data = found({"e.csv": csv(ROWS), "i.csv": ITEMS})
    out = tmp_path / "out"
    prepare(data, Rules(), out, False, lambda step: None)
    with pytest.raises(InputError, match="--overwrite replaces it"):
        look(data, Rules(), out, False)
    assert look(data, Rules(), out, True).num_events == 40
    with pytest.raises(InputError, match="was not made by prepare"):
        look(data, Rules(), Path(tmp_path, "source"), True)
