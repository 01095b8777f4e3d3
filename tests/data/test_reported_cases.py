"""Small inputs as people reported them of other tools, each with its right value."""

import datetime as dt
import json

import pyarrow as pa
import pyarrow.parquet
import pytest

from store_engine.data.catalog import Catalog
from store_engine.data.readers import EventColumns, read_interactions, read_items
from store_engine.data.report import DataReport
from store_engine.errors import InputError

CATALOG = Catalog(("B0", "B1", "B2", "B3", "B4", "B5"), {"title": ("",) * 6})


def items(tmp_path, name, text, fields=("title", "category")):
    (tmp_path / name).write_bytes(text.encode())
    report = DataReport()
    return read_items(tmp_path / name, "item_id", fields, report), report


def test_a_stray_quote_in_items(tmp_path):
    text = (
        'item_id,title,category\nB0,Lamp,Home\nB1,"Weird Al live,Music\nB2,Red chair,Home\n'
        'B3,Blue chair,Home\nB4,"Heroes live,Music\nB5,Brush,Beauty\n'
    )
    with pytest.raises(InputError, match=r"items\.csv line 3: not valid csv: a stray quote"):
        items(tmp_path, "items.csv", text)


def test_a_stray_quote_in_a_column_of_events_that_is_not_read(tmp_path):
    path = tmp_path / "events.csv"
    path.write_text(
        'user_id,item_id,timestamp,note\nu1,B0,1,ok\nu1,B1,2,"loved it\nu1,B2,3,ok\n'
        'u2,B3,1,fine\nu2,B4,2,"meh\nu2,B5,3,ok\n'
    )
    with pytest.raises(InputError, match=r"events\.csv line 3: not valid csv: a stray quote"):
        read_interactions(path, CATALOG)


def test_what_pandas_quotes_in_a_tsv(tmp_path):
    text = 'item_id\ttitle\tcategory\nB0\tLamp\tHome\nB1\t"He said ""hi"""\tMusic\n'
    catalog, _ = items(tmp_path, "items.tsv", text)
    assert catalog.fields["title"] == ("Lamp", 'He said "hi"')


def test_an_id_beyond_int64(tmp_path):
    text = '{"item_id":18446744073709551610,"title":"Red"}\n{"item_id":"B2","title":"Blue"}\n'
    catalog, _ = items(tmp_path, "items.jsonl", text, ("title",))
    assert catalog.item_ids == ("18446744073709551610", "B2")


def test_half_of_a_surrogate_pair(tmp_path):
    text = (
        '{"item_id":"B1","title":"Red \\ud83d lamp"}\n{"item_id":"B2","title":"\\ud83d\\ude00"}\n'
    )
    catalog, report = items(tmp_path, "items.jsonl", text, ("title",))
    assert catalog.fields["title"] == ("Red \ufffd lamp", "\U0001f600")
    assert "halves of surrogate pairs, replaced by U+FFFD: 1" in report.lines()


@pytest.mark.parametrize("other", ['"Red"', "1999", "19.5", "null"])
def test_nan_is_no_text(tmp_path, other):
    text = f'{{"item_id":"B1","title":{other}}}\n{{"item_id":"B2","title":NaN}}\n'
    catalog, report = items(tmp_path, "items.jsonl", text, ("title",))
    assert catalog.fields["title"] == (other.strip('"').replace("null", ""), "")
    assert report.num_empty["title"] == 1 + (other == "null")


def test_deep_nesting(tmp_path):
    text = '{"item_id":"B1","title":' + "[" * 5000 + "]" * 5000 + "}\n"
    with pytest.raises(InputError, match=r"items\.jsonl line 1: nested too deeply$"):
        items(tmp_path, "items.jsonl", text, ("title",))
    text = '{"item_id":"B1","title":' + "[" * 100 + "]" * 100 + "}\n"
    with pytest.raises(InputError, match=r"items\.jsonl line 1: title is nested deeper than 64$"):
        items(tmp_path, "items.jsonl", text, ("title",))


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_an_object_has_its_own_keys_only(tmp_path, suffix):
    rows = [{"item_id": f"B{i}", "details": {f"key{i}": "v", "Brand": "Acme"}} for i in range(60)]
    path = tmp_path / f"items.{suffix}"
    if suffix == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:  # Arrow's struct has the keys of all rows
        pa.parquet.write_table(pa.Table.from_pylist(rows), path)
    catalog = read_items(path, "item_id", ("details",))
    texts = set(catalog.fields["details"][7].split(", "))
    assert texts == {"key7: v", "Brand: Acme"}


def test_an_item_without_an_attribute(tmp_path):
    text = '{"item_id":"B1","title":"Red","category":"x"}\n{"item_id":"B2","category":"x"}\n'
    catalog, report = items(tmp_path, "items.jsonl", text)
    assert catalog.fields == {"title": ("Red", ""), "category": ("x", "x")}
    assert report.lines()[1:] == ["1 of 2 items have no title"]
    with pytest.raises(InputError, match="column brand is missing; columns: item_id, title"):
        items(tmp_path, "items.jsonl", text, ("title", "brand"))


def events(tmp_path, times):
    table = {"user_id": ["u"] * 3, "item_id": ["B0", "B1", "B2"], "timestamp": times}
    pa.parquet.write_table(pa.table(table), tmp_path / "events.parquet")
    histories, _ = read_interactions(tmp_path / "events.parquet", CATALOG)
    return [CATALOG.item_ids[row] for row in histories[0]]


def test_nanoseconds(tmp_path):
    times = [1_700_000_000_000_000_000 + k * 1_000_000_123 for k in (3, 1, 2)]
    assert events(tmp_path, pa.array(times, pa.timestamp("ns"))) == ["B1", "B2", "B0"]


def test_dates(tmp_path):
    days = pa.array([dt.date(2020, 1, day) for day in (3, 1, 2)])
    assert events(tmp_path, days) == ["B1", "B2", "B0"]


def test_bytes_and_whole_floats(tmp_path):
    title = pa.array([b"Red lamp", "Café cup".encode()], pa.binary())
    table = {"item_id": ["B0", "B1"], "title": title, "year": pa.array([1999.0, 2001.0])}
    pa.parquet.write_table(pa.table(table), tmp_path / "items.parquet")
    catalog = read_items(tmp_path / "items.parquet", "item_id", ("title", "year"))
    assert catalog.fields == {"title": ("Red lamp", "Café cup"), "year": ("1999", "2001")}


def test_ids_that_became_floats(tmp_path):
    """A column of whole numbers with a missing value is a column of floats elsewhere."""
    table = {"item_id": pa.array([1.0, 2.0]), "title": ["Red", "Blue"]}
    pa.parquet.write_table(pa.table(table), tmp_path / "items.parquet")
    catalog = read_items(tmp_path / "items.parquet", "item_id", ("title",))
    assert catalog.item_ids == ("1", "2")
    table = {"user_id": [1.0] * 4, "item_id": [1.0, 2.0, None, 1.0], "timestamp": range(4)}
    pa.parquet.write_table(pa.table(table), tmp_path / "events.parquet")
    with pytest.raises(InputError, match=r"events\.parquet row 3: item_id is empty$"):
        read_interactions(tmp_path / "events.parquet", catalog)


@pytest.mark.parametrize(
    ("known", "got", "hint"),
    [
        ("1", "1.0", "it has '1': a program that takes ids for numbers writes 1 as 1.0"),
        ("1.0", "1", r"it has '1\.0': its ids were written as numbers"),
        ("B1", " B1", "it has 'B1' without white space"),
        ("7", "007", "it has '7' without leading zeros"),
        ("0000070", "70", "it has '0000070' with leading zeros"),
        ("B00X", "b00x", "it has 'B00X'"),
    ],
)
def test_an_id_that_another_program_changed_gets_a_hint(tmp_path, known, got, hint):
    path = tmp_path / "events.csv"
    path.write_text(f"user_id,item_id,timestamp\nu,{known},1\nu,{got},2\nu,{got},3\n")
    with pytest.raises(InputError, match=rf"line 3: unknown item id '{got}'; .*{hint}"):
        read_interactions(path, Catalog((known,), {"title": ("",)}))


def test_all_kinds_of_bad_rows_are_told_at_once(tmp_path):
    path = tmp_path / "events.csv"
    rows = ["u,B0,1", "u,X,2", ",B0,3", "u,B1,soon", "u,Y,4", "u,X,5", " ,B0,6", "u,B0,7"]
    path.write_text("\n".join(["user_id,item_id,timestamp", *rows]))
    with pytest.raises(InputError) as error:
        read_interactions(path, CATALOG)
    assert str(error.value) == (
        f"{path} line 3: unknown item id 'X'; the catalogue has 6; 2 ids are unknown: 'X', 'Y' "
        f"(3 rows have this fault); also line 4: user_id is empty (2 rows have this fault); "
        f"also line 5: timestamp must be a finite number, got 'soon'"
    )


def test_seconds_beside_milliseconds(tmp_path):
    path = tmp_path / "events.csv"
    path.write_text(
        "user_id,item_id,timestamp\nu,B0,1600000000\nu,B1,1600000001\nu,B2,1600000002000\n"
    )
    with pytest.raises(InputError) as error:
        read_interactions(path, CATALOG, EventColumns())
    assert str(error.value) == (
        f"{path} line 4: timestamp 1600000002000 looks like milliseconds, 1600000000 like "
        f"seconds on line 2"
    )


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl"])
def test_escape_sequences_do_not_reach_a_terminal(tmp_path, suffix):
    title = "\x1b[31mRed\x07 lamp"
    if suffix == "jsonl":
        text = json.dumps({"item_id": "B1", "title": title})
    else:
        delimiter = "," if suffix == "csv" else "\t"
        text = f"item_id{delimiter}title\nB1{delimiter}{title}\n"
    catalog, report = items(tmp_path, f"items.{suffix}", text, ("title",))
    assert catalog.fields["title"] == ("[31mRed lamp",)
    assert report.num_stripped == 2
