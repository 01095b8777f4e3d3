"""Files that are no regular files, damaged parquet, and what importing costs."""

import errno
import os
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from store_engine.data.tables.bad_rows import BadRows
from store_engine.data.tables.table import read_table
from store_engine.errors import InputError

SUFFIXES = ["csv", "tsv", "item", "jsonl", "parquet"]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("kind", ["FIFO", "directory", "device", "missing"])
def test_what_is_no_regular_file_is_refused_at_once(tmp_path, suffix, kind):
    path = tmp_path / f"t.{suffix}"
    if kind == "FIFO":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
    with pytest.raises(InputError, match=rf"t\.{suffix}: (must be a regular file|No such file)"):
        read_table(path, ["a"])


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_unreadable_file_is_refused(tmp_path, monkeypatch, suffix):
    def refuse(path, *_):  # root may read every file, so its mode would not do
        raise PermissionError(errno.EACCES, "Permission denied", path)

    path = tmp_path / f"t.{suffix}"
    path.write_text("a\n1\n")
    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(InputError, match=rf"t\.{suffix}: Permission denied"):
        read_table(path, ["a"])


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MemoryError(), "out of memory"),
        (OSError(errno.EIO, "Input/output error"), "Input/output error"),
    ],
    ids=["memory", "disk"],
)
def test_what_the_machine_lacks_is_one_line(tmp_path, monkeypatch, suffix, error, message):
    def fail(*_):
        raise error

    path = tmp_path / f"t.{suffix}"
    path.write_text("a\n1\n")
    for module in ("lines", "delimited", "parquet"):
        monkeypatch.setattr(f"store_engine.data.tables.{module}.open_regular", fail)
    with pytest.raises(InputError, match=rf"t\.{suffix}: .*{message}$"):
        read_table(path, ["a"])


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_has_a_largest_size(tmp_path, monkeypatch, suffix):
    for module in ("lines", "delimited", "parquet"):
        monkeypatch.setattr(f"store_engine.data.tables.{module}.MAX_FILE_BYTES", 10)
    path = tmp_path / f"t.{suffix}"
    path.write_text("a" * 11)
    with pytest.raises(InputError, match="must be at most 10 bytes, is 11"):
        read_table(path, ["a"])


def parquet_bytes(path):
    table = pa.table(
        {
            "item_id": pa.array([f"i{k}" for k in range(50)]),
            "title": pa.array(["Red lamp", None] * 25).dictionary_encode(),
            "tags": pa.array([["a", "b"], []] * 25),
            "when": pa.array(range(50), pa.timestamp("ns")),
        }
    )
    pa.parquet.write_table(table, path)
    return path.read_bytes()


def test_damaged_parquet_files_give_a_table_or_one_line(tmp_path):
    path = tmp_path / "t.parquet"
    whole = parquet_bytes(path)
    rng = np.random.default_rng(0)
    for case in range(300):
        content = bytearray(whole)
        if case % 3 == 0:
            content = content[: rng.integers(len(content))]
        else:
            # the last 600 bytes are the footer, where the sizes stand
            begin = 0 if case % 3 == 1 else max(0, len(content) - 600)
            for place in rng.integers(begin, len(content), size=3):
                content[place] = rng.integers(256)
        path.write_bytes(content)
        try:
            table = read_table(path, ["item_id", "title", "tags", "when"])
            table.keys("item_id"), table.times("when")
        except InputError as error:
            assert str(error).startswith(str(path)) and "\n" not in str(error)


def test_columns_of_parquet_by_name(tmp_path):
    path = tmp_path / "t.parquet"
    inner = pa.StructArray.from_arrays([pa.array(["x"])], names=["b"])
    pa.parquet.write_table(pa.table({"a": inner, "a.b": ["y"], "c": ["z"]}), path)
    columns = read_table(path, ["a.b", "c"]).columns
    assert {name: column.to_pylist() for name, column in columns.items()} == {
        "a.b": ["y"],
        "c": ["z"],
    }
    with pytest.raises(InputError, match=r"column b is missing; columns: a, a\.b, c"):
        read_table(path, ["b"])


def test_one_error_tells_of_all_bad_rows(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text('a\n1\n"2\n3"\n4\n')
    table = read_table(path, ["a"])
    table.refuse([])
    with pytest.raises(InputError) as error:
        table.refuse([BadRows(2, "a is odd"), BadRows(1, "a is like", 5, 0)])
    expected = "line 3: a is like line 2 (5 rows have this fault); also line 5: a is odd"
    assert str(error.value) == f"{path} {expected}"


def test_pyarrow_is_imported_only_to_read_a_file():
    modules = "catalog, histories, load, movielens, readers, report, split, synthetic"
    code = (
        "import sys, store_engine\n"
        "before = set(sys.modules)\n"
        f"from store_engine.data import {modules}\n"
        "assert not {'pyarrow', 'torch'} & (set(sys.modules) - before)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
