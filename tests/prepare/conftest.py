"""Runs a preparation on small files and reads back what it wrote."""

from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq
import pytest
from data_files import write_files

pytest.importorskip("duckdb", reason="the extra `prepare`")

from store_engine.prepare.output import prepare
from store_engine.prepare.readers.discover import Choices, discover
from store_engine.prepare.report import Report
from store_engine.prepare.rules import Rules


class Prepared(NamedTuple):
    events: list[tuple[Any, ...]]  # user, item, timestamp, in the order of the file
    items: dict[str, tuple[str, ...]]  # id -> texts
    fields: tuple[str, ...]
    report: Report
    folder: Path


@pytest.fixture
def prepared(tmp_path):
    """Prepares files: name -> text, bytes, or an Arrow table."""

    def run(files: dict[str, Any], rules: dict[str, Any] | None = None, **choices: Any) -> Prepared:
        source = write_files(tmp_path / "source", files)
        paths = choices.pop("paths", ["."])
        events = [source / name for name in choices.pop("events", [])]
        items = [source / name for name in choices.pop("items", [])]
        given = [] if events and items else [source / name for name in paths]
        found = discover(given, events, items, Choices(**choices))
        out = tmp_path / "out"
        keep_all = {"min_user": 1} | (rules or {})
        report = prepare(found, Rules(**keep_all), out, True, lambda step: None)
        table = pq.read_table(out / "interactions.parquet")
        rows = [tuple(row.values()) for row in table.to_pylist()]
        catalogue = pq.read_table(out / "items.parquet").to_pylist()
        texts = {row.pop("item_id"): tuple(row.values()) for row in catalogue}
        assert len(texts) == len(catalogue)
        return Prepared(rows, texts, report.fields, report, out)

    return run
