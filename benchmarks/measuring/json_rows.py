"""Rows of JSON, one a line: the results of benchmarks whose figures are more than one number."""

import datetime
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from store_engine.experiments.provenance import commit, machine
from store_engine.files.json_file import read_json_lines

Row = dict[str, Any]


def provenance() -> Row:
    """Where and when a row was measured."""
    return {
        "machine": machine(),
        "threads": torch.get_num_threads(),
        "commit": commit(),
        "date": datetime.date.today().isoformat(),
    }


def append_rows(path: Path, rows: Iterable[Row]) -> None:
    """Appends rows to a file; it and its folder are made if they are not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def read_rows(path: Path) -> list[Row]:
    """The rows of a file, oldest first; none if it was never written."""
    return [row for _, row in read_json_lines(path)] if path.exists() else []
