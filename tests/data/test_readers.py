"""What the readers make of good files, whatever their form."""

import datetime as dt
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from store_engine.data.catalog import Catalog
from store_engine.data.readers import EventColumns, EventRules, read_interactions, read_items
from store_engine.errors import InputError

ITEMS = {
    "item_id": ["10", "2", "x"],
    "title": ['A "ball", red', "Ünïcödé", ""],
    "brand": ["b", "", "c"],
}
CATALOG = Catalog(("10", "2", "x"), {"title": ("", "", "")})
EVENTS = {
    "user_id": ["u2", "u1", "u2", "u1", "u2", "u1", "u3"],
    "item_id": ["10", "2", "x", "10", "2", "x", "2"],
    "timestamp": ["30", "5", "10", "5", "20", "1", "0"],
}


def write(path, columns):
    """Writes columns of strings in the form that the suffix names."""
    rows = list(zip(*columns.values(), strict=True))
    if path.suffix == ".parquet":
        pa.parquet.write_table(pa.table(columns), path)
    elif path.suffix == ".jsonl":
        lines = [json.dumps(dict(zip(columns, row, strict=True))) for row in rows]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    elif path.suffix == ".csv":
        quoted = [",".join('"' + v.replace('"', '""') + '"' for v in r) for r in [columns, *rows]]
        path.write_text("\n".join(quoted), encoding="utf-8")
    else:
        is_recbole = path.suffix in (".item", ".inter")
        header = [f"{name}:token" if is_recbole else name for name in columns]
        lines = ["\t".join(row) for row in [header, *rows]]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("suffix", ["csv", "tsv", "item", "jsonl", "parquet"])
def test_items_in_every_form(tmp_path, suffix):
    path = write(tmp_path / f"items.{suffix}", ITEMS)
    catalog = read_items(path, "item_id", ("title", "brand"))
    assert catalog.item_ids == ("10", "2", "x")
    assert catalog.fields == {"title": ('A "ball", red', "Ünïcödé", ""), "brand": ("b", "", "c")}


@pytest.mark.parametrize("suffix", ["csv", "tsv", "inter", "jsonl", "parquet"])
def test_interactions_in_every_form(tmp_path, suffix):
    path = write(tmp_path / f"interactions.{suffix}", EVENTS)
    histories, num_dropped_users = read_interactions(path, CATALOG)
    assert histories.user_ids == ("u2", "u1")
    # u1's two events at time 5 keep the file's order
    assert [histories[u].tolist() for u in range(2)] == [[2, 1, 0], [2, 1, 0]]
    assert num_dropped_users == 1


def test_only_named_columns_and_any_order(tmp_path):
    (tmp_path / "i.csv").write_text("junk,name,key\n\xff,a title,k1\n", encoding="utf-8")
    catalog = read_items(tmp_path / "i.csv", "key", ("name", "key"))
    assert catalog.fields == {"name": ("a title",), "key": ("k1",)}


def test_csv_oddities(tmp_path):
    text = '\ufeffitem_id,title\r\n1,"two\nlines, ""quoted"""\r\n\r\n2,  spaces \t here \r\n'
    (tmp_path / "i.csv").write_bytes(text.encode())
    catalog = read_items(tmp_path / "i.csv", "item_id", ("title",))
    assert catalog.item_ids == ("1", "2")
    assert catalog.fields["title"] == ('two lines, "quoted"', "spaces here")


def test_words_that_look_like_null_are_text(tmp_path):
    (tmp_path / "i.csv").write_text("item_id,title\nNA,null\nnan,None\n", encoding="utf-8")
    catalog = read_items(tmp_path / "i.csv", "item_id", ("title",))
    assert catalog.item_ids == ("NA", "nan") and catalog.fields["title"] == ("null", "None")


def test_ids_of_mixed_types(tmp_path):
    (tmp_path / "i.jsonl").write_text(
        '{"item_id": 1, "title": ""}\n{"item_id": "a", "title": ""}\n'
    )
    assert read_items(tmp_path / "i.jsonl", "item_id", ("title",)).item_ids == ("1", "a")


def test_typed_columns(tmp_path):
    table = {
        "item_id": pa.array([1, 2], pa.int32()),
        "title": pa.array(["a", None]).dictionary_encode(),
        "tags": pa.array([["x", "y z"], None]),
        "year": pa.array([1995, None]),
    }
    pa.parquet.write_table(pa.table(table), tmp_path / "i.parquet")
    catalog = read_items(tmp_path / "i.parquet", "item_id", ("title", "tags", "year"))
    assert catalog.item_ids == ("1", "2")
    assert catalog.fields == {"title": ("a", ""), "tags": ("x, y z", ""), "year": ("1995", "")}


@pytest.mark.parametrize(
    "times",
    [
        ["9", "10", "-1"],
        ["1.5", "2e3", "0"],
        # beyond 2^53: as floats these were equal
        ["1700000000000000001", "1700000000000000002", "1700000000000000000"],
        ["2014-03-01", "2014-11-01", "2013-12-31"],
        ["2014-03-01 10:00:00", "2014-03-01T10:00:00.5", "2014-03-01 09:59:59"],
        ["2014-03-01T10:00:00Z", "2014-03-01T10:00:00+00:00", "2014-03-01T11:59:59+02:00"],
        pa.array([9, 10, -1], pa.int16()),
        pa.array([1.5, 2.5, 0.5]),
        pa.array([dt.datetime(2014, 3, 1), dt.datetime(2014, 3, 2), dt.datetime(2014, 2, 1)]),
        pa.array([dt.date(2014, 3, 1), dt.date(2014, 3, 2), dt.date(2014, 2, 1)]),
    ],
    ids=["int", "float", "ns", "date", "naive", "zone", "int16", "float64", "datetime", "date32"],
)
def test_forms_of_time(tmp_path, times):
    table = pa.table({"user_id": ["u"] * 3, "item_id": ["10", "2", "x"], "timestamp": times})
    pa.parquet.write_table(table, tmp_path / "e.parquet")
    histories, _ = read_interactions(tmp_path / "e.parquet", CATALOG)
    assert histories[0].tolist() == [2, 0, 1]


def test_column_names_and_min_events(tmp_path):
    text = "who,what,when\n" + "a,2,1\n" * 4 + "b,x,1\n" * 3
    (tmp_path / "e.csv").write_text(text, encoding="utf-8")
    columns = EventColumns("who", "what", "when")
    histories, num_dropped = read_interactions(tmp_path / "e.csv", CATALOG, columns, EventRules(4))
    assert histories.user_ids == ("a",) and num_dropped == 1


def test_shuffled_ties(tmp_path):
    catalog = Catalog(tuple(map(str, range(50))), {"title": ("",) * 50})
    lines = [f"u,{item},{item // 25}" for item in range(50)]
    path = tmp_path / "e.csv"
    path.write_text("user_id,item_id,timestamp\n" + "\n".join(lines), encoding="utf-8")
    orders = {
        (ties, seed): read_interactions(path, catalog, rules=EventRules(3, ties, seed))[0][
            0
        ].tolist()
        for ties in ("file", "shuffle")
        for seed in (0, 1)
    }
    assert orders["file", 0] == orders["file", 1] == list(range(50))
    assert orders["shuffle", 0] != orders["shuffle", 1]
    assert (
        read_interactions(path, catalog, rules=EventRules(3, "shuffle", 1))[0][0].tolist()
        == (orders["shuffle", 1])
    )
    for seed in (0, 1):
        assert sorted(orders["shuffle", seed][:25]) == list(range(25))


def test_many_blocks_agree_with_one(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    users, items = rng.integers(40, size=2000), rng.integers(3, size=2000)
    lines = [f"{users[t]},{CATALOG.item_ids[items[t]]},{t}" for t in range(2000)]
    path = tmp_path / "e.csv"
    path.write_text("user_id,item_id,timestamp\n" + "\n".join(lines), encoding="utf-8")
    whole, _ = read_interactions(path, CATALOG)
    monkeypatch.setattr("store_engine.data.tables.delimited.MAX_LINE_BYTES", 200)
    parts, _ = read_interactions(path, CATALOG)
    assert parts.user_ids == whole.user_ids == tuple(map(str, dict.fromkeys(users.tolist())))
    np.testing.assert_array_equal(parts.rows, whole.rows)
    for user, user_id in enumerate(whole.user_ids):
        np.testing.assert_array_equal(whole[user], items[users == int(user_id)])


@pytest.mark.parametrize("suffix", ["CSV", "Tsv", "JSONL", "PARQUET"])
def test_suffix_of_capitals_is_the_same_form(tmp_path, suffix):
    path = write(tmp_path / f"items.{suffix.lower()}", ITEMS).rename(tmp_path / f"items.{suffix}")
    assert read_items(path, "item_id", ["title"]).item_ids == ("10", "2", "x")


def test_other_forms_are_sent_to_prepare(tmp_path):
    for name in ("items.json", "items.csv.gz"):
        with pytest.raises(InputError, match="`store-engine prepare`"):
            read_items(tmp_path / name, "item_id", ["title"])
