"""The catalogue's texts: values made text, markup and control characters taken out, and written."""

import json
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet

from store_engine.data.markup import without_markup
from store_engine.data.report import DataReport
from store_engine.data.tables.cell_text import cell_text, clean_text
from store_engine.files.atomic import atomic_open
from store_engine.prepare.report import Report, TextLengths

_ROWS = 20_000


def write_items(
    rows: duckdb.DuckDBPyConnection, fields: tuple[str, ...], path: Path, report: Report
) -> None:
    """Cleans items and writes them.

    Args:
        rows: An executed query: item id, then one text per field.
        fields: Names of the fields; the id is written as item_id, so a field of that name is not.
        path: The parquet file to write.
        report: Takes the counts.
    """
    names = [name if name != "item_id" else "item_id_text" for name in fields]
    schema = pa.schema([("item_id", pa.string()), *((name, pa.string()) for name in names)])
    lengths = {name: TextLengths() for name in names}
    cleaning = DataReport()
    with (
        atomic_open(path) as file,
        pa.parquet.ParquetWriter(file, schema, compression="zstd") as out,
    ):
        while batch := rows.fetchmany(_ROWS):
            columns: list[list[str]] = [[] for _ in schema]
            for item_id, *values in batch:
                columns[0].append(item_id)
                for place, (name, value) in enumerate(zip(names, values, strict=True), 1):
                    text = item_text(value, cleaning)
                    report.num_cleaned += value is not None and text != value
                    lengths[name].add(text)
                    columns[place].append(text)
            report.num_items += len(batch)
            out.write_table(pa.table([pa.array(c, pa.string()) for c in columns], schema=schema))
    report.texts = lengths
    report.fields = tuple(names)


def item_text(value: str | None, report: DataReport) -> str:
    """Makes one clean line of a value: a JSON list or object is written as a person would.

    Args:
        value: Text, or None for nothing.
        report: Counts the control characters.
    """
    text = value or ""
    if text[:1] in ("[", "{"):
        text = _unpacked(text)
    return clean_text(without_markup(text), report)


def _unpacked(text: str) -> str:
    try:
        value: Any = json.loads(text)
        return cell_text(value)
    except (ValueError, RecursionError):
        return text
