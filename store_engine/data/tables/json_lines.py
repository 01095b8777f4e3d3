"""Columns of JSON lines: what JSON allows is read exactly, line by line.

Arrow's JSON reader is faster, but it decides a column's type from its first block and then refuses
legal files; here a column may mix types, integers have any size, and a number with a fraction is a
Decimal with the digits that stand in the file.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

from store_engine.data.tables.lines import read_lines, require_columns, shown
from store_engine.errors import InputError


def read_json_lines(
    path: Path, names: list[str]
) -> tuple[dict[str, list[Any]], Callable[[], Iterator[int]]]:
    """Reads columns by name. A line that lacks a key has None there.

    Args:
        path: The file: one JSON object per line, in UTF-8; blank lines are skipped.
        names: Keys to read.

    Returns:
        Name -> values, and a function that walks the file again for the line of each row.

    Raises:
        InputError: The file cannot be read, a line is not a JSON object or has a key twice, or no
            line has one of the keys.
    """
    columns: dict[str, list[Any]] = {name: [] for name in names}
    first: tuple[int, list[str]] | None = None
    missing = set(names)
    for number, item in _objects(path):
        first = first or (number, list(item))
        if missing:
            missing -= item.keys()
        for name, values in columns.items():
            values.append(item.get(name))
    if missing and first:
        require_columns(f"{path} line {first[0]}", first[1], [n for n in names if n in missing])
    return columns, lambda: (number for number, _ in _objects(path))


def _objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    decoder = json.JSONDecoder(parse_float=Decimal, object_pairs_hook=_unique)
    for number, line in read_lines(path):
        if not (text := line.strip()):
            continue
        try:
            item = decoder.decode(text)
        except json.JSONDecodeError as error:
            raise InputError(
                f"{path} line {number}: not valid JSON: {error.msg} (column {error.colno})"
            ) from error
        except RecursionError as error:
            raise InputError(f"{path} line {number}: nested too deeply") from error
        except ValueError as error:  # a key twice; an integer of thousands of digits
            raise InputError(f"{path} line {number}: {error}") from error
        except ArithmeticError as error:
            raise InputError(f"{path} line {number}: a number has too large an exponent") from error
        if not isinstance(item, dict):
            raise InputError(f"{path} line {number}: expected a JSON object")
        yield number, item


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    item = dict(pairs)
    if len(item) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        twice = next(key for key, count in counts.items() if count > 1)
        raise ValueError(f"key {shown(twice)} appears twice in one object")
    return item
