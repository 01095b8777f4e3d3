"""A table of bad inputs: each gives one InputError that names the file, the line and the need."""

import pyarrow as pa
import pyarrow.parquet
import pytest

from store_engine.data.catalog import Catalog
from store_engine.data.readers import read_interactions, read_items
from store_engine.errors import InputError

CATALOG = Catalog(("1", "2"), {"title": ("", "")})
GOOD = b"u,1,1\nu,2,2\nu,1,3\n"
HEADER = b"user_id,item_id,timestamp\n"

# name -> (file name, content, what the message says after the path)
BAD_ITEMS = {
    "empty file": ("i.csv", b"", ": is empty; expected a header with item_id, title"),
    "blank file": ("i.csv", b"\n\n", ": is empty; expected a header with item_id, title"),
    "zip": ("i.csv", b"PK\x03\x04rest", ": is a zip archive (or a spreadsheet): unpack it"),
    "gzip": ("i.jsonl", b"\x1f\x8b\x08rest", ": is compressed by gzip: unpack it first"),
    "spreadsheet": ("i.tsv", b"\xd0\xcf\x11\xe0rest", ": is an old spreadsheet: save it as csv"),
    "xz for parquet": ("i.parquet", b"\xfd7zXZ\x00", ": is compressed by xz: unpack it first"),
    "no rows": ("i.csv", b"item_id,title\n", ": has no item, expected at least one"),
    "no rows, jsonl": ("i.jsonl", b"", ": has no item, expected at least one"),
    "no id column": (
        "i.csv",
        b"id,title\n1,a\n",
        " line 1: column item_id is missing; columns: id",
    ),
    "no text column": ("i.tsv", b"item_id\tname\n1\ta\n", " line 1: column title is missing"),
    "column twice": ("i.csv", b"item_id,title,title\n1,a,b\n", " line 1: column title appears"),
    "no key": (
        "i.jsonl",
        b'{"item_id": 1}\n',
        " line 1: column title is missing; columns: item_id",
    ),
    "duplicate": ("i.csv", b"item_id,title\n1,a\n2,b\n1,c\n", " line 4: item id '1' appears twice"),
    "duplicate after a long field": (
        "i.csv",
        b'item_id,title\n1,"a\nb\nc"\n\n1,d\n',
        " line 6: item id '1' appears twice",
    ),
    "duplicate, jsonl": (
        "i.jsonl",
        b'{"item_id": 1, "title": ""}\n\n{"item_id": 1, "title": ""}\n',
        " line 3: item id '1' appears twice",
    ),
    "empty id": ("i.csv", b"item_id,title\n1,a\n,b\n", " line 3: item_id is empty"),
    "float id": (
        "i.jsonl",
        b'{"item_id": 1.5, "title": ""}\n',
        " line 1: item_id must be text or a whole number, got 1.5",
    ),
    "short row": ("i.csv", b"item_id,title\n1,a\n2\n", " line 3: expected 2 columns, got 1"),
    "long row": (
        "i.item",
        b"item_id:token\ttitle:x\n1\ta\tb\n",
        " line 2: expected 2 columns, got 3",
    ),
    "open quote": ("i.csv", b'item_id,title\n1,a\n2,"b\n', " line 3: not valid csv"),
    "latin-1": ("i.csv", b"item_id,title\n1,a\n2,caf\xe9\n", " line 3: not UTF-8 (byte 0xe9 at"),
    "latin-1, tsv": ("i.tsv", b"item_id\ttitle\n1\tcaf\xe9\n", " line 2: not UTF-8 (byte 0xe9 at"),
    "latin-1 header": ("i.csv", b"item_id,title,\xe9\n1,a,b\n", " line 1: not UTF-8"),
    "utf-16": ("i.csv", "item_id,title\n1,a\n".encode("utf-16"), " line 1: not UTF-8 (byte 0xff"),
    "latin-1, jsonl": ("i.jsonl", b'{"item_id": 1, "title": "\xe9"}\n', " line 1: not UTF-8"),
    "not json": ("i.jsonl", b'{"item_id": 1, "title": ""}\n{oops\n', " line 2: not valid JSON"),
    "list, jsonl": ("i.jsonl", b"[1, 2]\n", " line 1: expected a JSON object"),
    "not parquet": ("i.parquet", b"item_id,title\n1,a\n", ": not a readable parquet file"),
    "suffix": ("i.xlsx", b"", ": the suffix must be one of .csv, .tsv"),
}

BAD_EVENTS = {
    "no column": ("e.csv", b"user_id,item_id\nu,1\n", " line 1: column timestamp is missing"),
    "unknown item": ("e.csv", HEADER + GOOD + b"u,9,4\n", " line 5: unknown item id '9'"),
    "unknown item, tsv": (
        "e.inter",
        b"user_id:token\titem_id:token\ttimestamp:float\nu\t1\t1\nu\t7\t1\nu\t8\t1\n",
        " line 3: unknown item id '7'",
    ),
    "empty user": ("e.csv", HEADER + b",1,4\n" + GOOD, " line 2: user_id is empty"),
    "empty item": ("e.csv", HEADER + GOOD + b"u,,4\n", " line 5: item_id is empty"),
    "empty time": (
        "e.csv",
        HEADER + GOOD + b"u,1,\n",
        " line 5: timestamp must be a finite number",
    ),
    "NaN": (
        "e.csv",
        HEADER + GOOD + b"u,1,NaN\n",
        " line 5: timestamp must be a finite number, got",
    ),
    "infinite": (
        "e.csv",
        HEADER + GOOD + b"u,1,inf\n",
        " line 5: timestamp must be a finite number",
    ),
    "word": ("e.csv", HEADER + GOOD + b"u,1,soon\n", " line 5: timestamp must be a finite number"),
    "no date": (
        "e.csv",
        HEADER + b"u,1,2014-01-01\nu,1,2014-31-01\n",
        " line 3: timestamp must be a time in ISO 8601, got '2014-31-01'",
    ),
    "null time": (
        "e.jsonl",
        b'{"user_id": "u", "item_id": 1, "timestamp": 1}\n'
        b'{"user_id": "u", "item_id": 1, "timestamp": null}\n',
        " line 2: timestamp must be a finite number, got nothing",
    ),
    "few events": (
        "e.csv",
        HEADER + b"u,1,1\nv,1,1\n",
        ": no user has at least 3 events; got 2 users",
    ),
    "no events": ("e.csv", HEADER, ": no user has at least 3 events; got 0 users and 0 events"),
}


@pytest.mark.parametrize(("name", "content", "message"), BAD_ITEMS.values(), ids=BAD_ITEMS)
def test_items(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError) as error:
        read_items(path, "item_id", ("title",))
    assert str(error.value).startswith(f"{path}{message}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("name", "content", "message"), BAD_EVENTS.values(), ids=BAD_EVENTS)
def test_interactions(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError) as error:
        read_interactions(path, CATALOG)
    assert str(error.value).startswith(f"{path}{message}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        (
            "timestamp",
            [1.0, float("nan"), 2.0],
            " row 2: timestamp must be a finite number, got nan",
        ),
        ("timestamp", [1, None, 2], " row 2: timestamp must be a finite number, got nothing"),
        ("item_id", ["1", "2", None], " row 3: item_id is empty"),
        ("item_id", ["1", "9", "2"], " row 2: unknown item id '9'"),
        ("user_id", [0.5, 0.5, 0.5], " row 1: user_id must be text or a whole number, got 0.5"),
    ],
    ids=["NaN", "null time", "null item", "unknown item", "float user"],
)
def test_parquet_names_the_row(tmp_path, column, values, message):
    columns = {"user_id": ["u"] * 3, "item_id": ["1"] * 3, "timestamp": [1, 2, 3]} | {
        column: values
    }
    path = tmp_path / "e.parquet"
    pa.parquet.write_table(pa.table(columns), path)
    with pytest.raises(InputError) as error:
        read_interactions(path, CATALOG)
    assert str(error.value).startswith(f"{path}{message}")


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_missing_file(tmp_path, suffix):
    with pytest.raises(InputError, match=f"items.{suffix}: .*No such file"):
        read_items(tmp_path / f"items.{suffix}", "item_id", ("title",))


def test_no_text_fields(tmp_path):
    with pytest.raises(InputError, match="text_fields must name at least one column"):
        read_items(tmp_path / "items.csv", "item_id", ())
