import json
import re
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from store_engine.errors import InputError
from store_engine.serving.batch.shards import Shard, plan_shards, read_shard

ROWS = {"a": 0, "b, c": 1, "7": 2, "漢": 3}


def parquet(path, users, histories, kind=None):
    column = pa.array(histories, kind) if kind else pa.array(histories)
    pq.write_table(pa.table({"extra": users, "user_id": users, "history": column}), path)
    return path


def lists(shard):
    return [shard.histories[user].tolist() for user in range(shard.histories.num_users)]


@pytest.mark.parametrize(
    ("kind", "histories", "want"),
    [
        (None, [["a", "b, c", "a"], [], ["漢"]], [[0, 1, 0], [], [3]]),
        (None, [None, ["7"], None], [[], [2], []]),
        (pa.large_list(pa.large_string()), [["a"], ["7"], ["漢", "a"]], [[0], [2], [3, 0]]),
        (pa.list_(pa.int64()), [[7], [], [7, 7]], [[2], [], [2, 2]]),
        (pa.list_(pa.float64()), [[7.0], [], []], [[2], [], []]),
        (pa.list_(pa.string(), 2), [["a", "7"], None, ["7", "a"]], [[0, 2], [], [2, 0]]),
        (
            pa.list_(pa.dictionary(pa.int8(), pa.string())),
            [["a", "a"], ["7"], []],
            [[0, 0], [2], []],
        ),
    ],
    ids=["text", "null", "large", "integer", "whole-float", "fixed-size", "dictionary"],
)
def test_histories_are_read_as_they_stand(tmp_path, kind, histories, want):
    shard = read_shard(
        parquet(tmp_path / "in.parquet", ["u", "v", "u"], histories, kind), ROWS, "error"
    )
    assert shard.histories.user_ids == ("u", "v", "u")
    assert lists(shard) == want
    assert shard.num_unknown == 0


def test_many_row_groups_are_one_shard(tmp_path):
    histories = [["a"] * (i % 3) for i in range(100)]
    table = pa.table(
        {"user_id": list(range(100)), "history": pa.array(histories, pa.list_(pa.string()))}
    )
    pq.write_table(table, tmp_path / "in.parquet", row_group_size=7)
    shard = read_shard(tmp_path / "in.parquet", ROWS, "error")
    assert lists(shard) == [[0] * (i % 3) for i in range(100)]
    assert shard.histories.user_ids == tuple(map(str, range(100)))


def test_json_lines(tmp_path):
    lines = [{"user_id": 5, "history": ["a", 7]}, {"user_id": "v"}, {"user_id": "w", "history": []}]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert lists(read_shard(tmp_path / "in.jsonl", ROWS, "error")) == [[0, 2], [], []]


def test_unknown_items_are_left_out_and_counted(tmp_path):
    path = parquet(tmp_path / "in.parquet", ["u", "v", "w"], [["x", "a", "x"], ["y"], ["7", "z"]])
    shard = read_shard(path, ROWS, "skip")
    assert lists(shard) == [[0], [], [2]]
    assert shard.num_unknown == 4


@pytest.mark.parametrize(
    ("users", "histories", "message"),
    [
        (
            ["u", None, ""],
            [["a"]] * 3,
            r"in.parquet row 2: user_id is empty \(2 rows have this fault\)",
        ),
        (["u", "v", "w"], [["a"], [], ["a", None]], "row 3: history is empty"),
        (["u", "v", "w"], [[], ["a"], ["a", "nobody"]], "row 3: history: unknown item id 'nobody'"),
        (["u", "v", "w"], [[], [" a"], []], "row 2: .*did you mean 'a'"),
        (["u", "v", "w"], ["a", "b", "c"], "history must be a column of lists, is string"),
        (
            ["u", "v", "w"],
            [[1.5], [], []],
            "row 1: history must be text or a whole number, got 1.5",
        ),
        (["u", "v", "w"], [[["a"]], [], []], "row 1: history must be text"),
    ],
    ids=["user", "null-item", "unknown", "blank", "no-list", "float", "nested"],
)
def test_a_bad_row_is_named(tmp_path, users, histories, message):
    with pytest.raises(InputError, match=message):
        read_shard(parquet(tmp_path / "in.parquet", users, histories), ROWS, "error")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"user_id": "u", "history": "a"}', "line 1: history must be a list"),
        ('{"user_id": "u", "history": {"a": 1}}', "line 1: history must be a list"),
        ('{"user_id": "u", "history": [true]}', "line 1: history must be text"),
        ('{"user_id": "u", "history": ["\\ud800"]}', "line 1: history holds"),
        ('{"user_id": "u"}', "history"),
        ("[]", "expected a JSON object"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, message):
    (tmp_path / "in.jsonl").write_text(line + "\n")
    with pytest.raises(InputError, match=message):
        read_shard(tmp_path / "in.jsonl", ROWS, "error")


def test_a_folder_is_planned_file_by_file(tmp_path):
    for name in ("b.parquet", "a.jsonl", "_SUCCESS", ".part.crc"):
        (tmp_path / name).touch()
    out = tmp_path / "_out"
    assert plan_shards(tmp_path, out) == [
        Shard(tmp_path / "a.jsonl", out / "a.parquet"),
        Shard(tmp_path / "b.parquet", out / "b.parquet"),
    ]


@pytest.mark.parametrize(
    ("names", "source", "output", "message"),
    [
        (["in/a.parquet", "in/a.jsonl"], "in", "out", "would become one output"),
        (["in/_SUCCESS"], "in", "out", "holds no shard"),
        (["in/day=1/a.parquet"], "in", "out", "day=1: is a folder"),
        (["in/a.parquet"], "in", "in", "is read"),
        (["in/a.parquet"], "in", "out.parquet", "must be a folder, of Parquet files"),
        (["in/a.csv"], "in", "out.csv.gz", "must be a folder, of Parquet files"),
        (["in.parquet"], "in.parquet", "out", "must be a file whose name ends in .parquet, .jsonl"),
        (["in.parquet", "o.parquet/x"], "in.parquet", "o.parquet", "must be a file whose name"),
    ],
)
def test_plans_that_cannot_be(tmp_path, names, source, output, message):
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).touch()
    with pytest.raises(InputError, match=message):
        plan_shards(tmp_path / source, tmp_path / output)


def test_decimal_ids_are_whole_numbers(tmp_path):
    path = parquet(tmp_path / "in.parquet", ["u"], [[Decimal("7")]])
    assert lists(read_shard(path, ROWS, "error")) == [[2]]
    assert read_shard(path, ROWS, "error").histories.rows.dtype == np.int32


@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["plain", "bom"])
@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_a_csv_spells_its_lists(tmp_path, mark, separator):
    rows = [("user_id", "history"), ("u", "a,7"), ("v", ""), ("w", '"[""b, c"", 7]"')]
    text = "\n".join(separator.join(row) for row in rows)
    (tmp_path / "in.csv").write_text(mark + text + "\n", encoding="utf-8")
    read = read_shard(tmp_path / "in.csv", ROWS, "error").histories
    assert read.user_ids == ("u", "v", "w")
    assert read.rows.tolist() == [0, 2, 1, 2]
    assert read.offsets.tolist() == [0, 2, 2, 4]


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("a,nobody", "line 3: history: unknown item id 'nobody'"),
        ("[a]", "line 3: history: a list of ids that begins"),
        ("@in.csv", "line 3: history: unknown item id '@in.csv'"),
    ],
)
def test_a_list_in_a_csv_that_is_none_is_named(tmp_path, cell, message):
    (tmp_path / "in.csv").write_text(f"user_id;history\nu;a\nv;{cell}\n")
    with pytest.raises(InputError, match=re.escape(message)):
        read_shard(tmp_path / "in.csv", ROWS, "error")
