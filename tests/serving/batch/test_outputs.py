import csv
import gzip
import io
import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from store_engine.data.tables.table import read_table
from store_engine.errors import InputError
from store_engine.serving.batch.outputs import (
    Recommended,
    check_form,
    is_made_from,
    write_shard,
)

PARTS = [
    Recommended(["u, 1", "v"], [["a", "7"], []], [[-1.1, -2.5], []], [["A", 'say "7"\nup'], []]),
    Recommended(["w\rw"], [["漢\t"]], [[-1e-9]], [[""]]),
]
ROWS = [
    {"user_id": "u, 1", "item_ids": ["a", "7"], "scores": [-1.1, -2.5]},
    {"user_id": "v", "item_ids": [], "scores": []},
    {"user_id": "w\rw", "item_ids": ["漢\t"], "scores": [-1e-9]},
]
RANKS = [
    ["u, 1", "1", "a", "-1.1", "A"],
    ["u, 1", "2", "7", "-2.5", 'say "7" up'],
    ["w\rw", "1", "漢\t", "-1e-09", ""],
]
COLUMNS = ["user_id", "rank", "item_id", "score", "title"]
NAMES = ["o.parquet", "o.jsonl", "o.csv", "o.tsv", "o.jsonl.gz", "o.csv.gz", "o.1.TSV.GZ"]


def text_of(path):
    content = path.read_bytes()
    return (gzip.decompress(content) if path.suffix.lower() == ".gz" else content).decode()


@pytest.mark.parametrize("name", NAMES)
def test_what_is_written_is_there_and_recognised(tmp_path, name):
    path, origin = tmp_path / name, {"run": "1", "options": "2"}
    assert not is_made_from(path, origin)
    write_shard(path, origin, iter(PARTS))
    if ".parquet" in name:
        found = pq.read_table(path).to_pylist()
        assert found == [
            row | {"scores": np.array(row["scores"], np.float32).tolist()} for row in ROWS
        ]
    elif ".jsonl" in name:
        assert [json.loads(line) for line in text_of(path).split("\n")[:-1]] == ROWS
    else:
        separator = "," if ".csv" in name else "\t"
        lines = csv.reader(io.StringIO(text_of(path), newline=""), delimiter=separator)
        assert list(lines) == [COLUMNS, *RANKS]
    assert is_made_from(path, dict(reversed(origin.items())))
    with pytest.raises(InputError, match="another run, input or options; --overwrite"):
        is_made_from(path, {"run": "1", "options": "3"})
    assert not is_made_from(path, {"run": "1", "options": "3"}, overwrite=True)


@pytest.mark.parametrize("name", ["o.csv", "o.tsv"])
def test_our_own_reader_reads_it(tmp_path, name):
    write_shard(tmp_path / name, {}, iter(PARTS))
    table = read_table(tmp_path / name, COLUMNS)
    found = [[str(value) for value in table.columns[column]] for column in COLUMNS]
    assert [list(row) for row in zip(*found, strict=True)] == RANKS


@pytest.mark.parametrize("name", NAMES)
def test_the_same_content_is_the_same_bytes_and_no_users_are_a_file_too(tmp_path, name):
    for folder in "ab":
        (tmp_path / folder).mkdir()
        write_shard(tmp_path / folder / name, {}, iter(()))
    assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    if ".parquet" not in name:
        header = {".csv": ",".join(COLUMNS) + "\n", ".tsv": "\t".join(COLUMNS) + "\n"}
        want = next((text for form, text in header.items() if form in name.lower()), "")
        assert text_of(tmp_path / "a" / name) == want


@pytest.mark.parametrize("scores", [[-0.1, -1 / 3], [-12345.678, -2.0]])
def test_a_text_has_the_same_float32_as_parquet(tmp_path, scores):
    part = Recommended(["u"], [["a", "b"]], [scores], [["", ""]])
    for name in ("o.parquet", "o.jsonl", "o.csv"):
        write_shard(tmp_path / name, {}, [part])
    want = pq.read_table(tmp_path / "o.parquet")["scores"][0].as_py()
    lines = list(csv.DictReader((tmp_path / "o.csv").open()))
    assert np.array([line["score"] for line in lines], np.float32).tolist() == want
    (row,) = map(json.loads, (tmp_path / "o.jsonl").open())
    assert np.array(row["scores"], np.float32).tolist() == want


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("content", [b"", b"PAR1", b"notes"])
def test_a_foreign_file_is_not_replaced_unasked(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match="not written by recommend"):
        is_made_from(tmp_path / name, {})
    assert not is_made_from(tmp_path / name, {}, overwrite=True)


@pytest.mark.parametrize("beside", [b"", b"[]", b"{}", b'{"origin": {}, "sha256": 5}'])
def test_a_text_that_was_changed_since_is_somebodys(tmp_path, beside):
    path = tmp_path / "o.csv"
    write_shard(path, {}, iter(PARTS))
    path.write_bytes(path.read_bytes() + b"mine\n")
    with pytest.raises(InputError, match="changed since"):
        is_made_from(path, {})
    write_shard(path, {}, iter(PARTS))
    assert is_made_from(path, {})
    (tmp_path / ".o.csv.origin.json").write_bytes(beside)
    with pytest.raises(InputError, match="not written by recommend"):
        is_made_from(path, {})


@pytest.mark.parametrize("name", NAMES)
def test_a_failed_shard_leaves_nothing(tmp_path, name):
    def parts():
        yield PARTS[0]
        raise InputError("no more")

    with pytest.raises(InputError):
        write_shard(tmp_path / name, {}, parts())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["o", "o.xlsx", "o.gz", "o.parquet.gz", ".csv", "o.csv.zip", "d.csv"]
)
def test_a_name_that_says_no_form_is_refused(tmp_path, name):
    (tmp_path / "d.csv").mkdir()
    with pytest.raises(InputError, match=r"\.parquet, \.jsonl, \.csv, \.tsv, or in \.gz behind"):
        check_form(tmp_path / name)
