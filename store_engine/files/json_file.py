"""JSON and JSON lines: one reader and one writer, for files that may be missing or damaged."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from store_engine.errors import InputError
from store_engine.files.atomic import atomic_open
from store_engine.files.regular import open_regular, parse_errors, read_regular

MAX_JSON_BYTES = 1 << 28
MAX_LINE_BYTES = 1 << 26


def read_json(path: str | Path, max_bytes: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """Reads a JSON object.

    Args:
        path: The file, in UTF-8.
        max_bytes: The largest size that is accepted.

    Raises:
        InputError: The file is missing, too large, no regular file, or holds something else.
    """
    value = parse_json(read_regular(path, max_bytes), str(path))
    if not isinstance(value, dict):
        raise InputError(f"{path}: must hold a JSON object")
    return value


def write_json(path: str | Path, value: Any, indent: int | None = 1) -> None:
    """Writes a value as JSON; the file stands complete or not at all."""
    with atomic_open(path) as file:
        file.write(json.dumps(value, indent=indent).encode() + b"\n")


def read_json_lines(
    path: str | Path, *, may_be_cut: bool = False, max_line_bytes: int = MAX_LINE_BYTES
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Reads JSON objects, one per line.

    Args:
        path: The file, in UTF-8.
        may_be_cut: The writer may have been killed: a last line without its end is left out.
        max_line_bytes: The longest line that is accepted.

    Yields:
        Where an object stands, as "PATH line NUMBER", and the object.

    Raises:
        InputError: The file is missing or no regular file, or a line is something else.
    """
    with open_regular(path) as file:
        number = 0
        while line := _read_line(file, path, max_line_bytes):
            number += 1
            where = f"{path} line {number}"
            if may_be_cut and not line.endswith(b"\n"):
                return
            if len(line) > max_line_bytes:
                raise InputError(f"{where}: must be at most {max_line_bytes:,} bytes, is longer")
            value = parse_json(line, where)
            if not isinstance(value, dict):
                raise InputError(f"{where}: must hold a JSON object")
            yield where, value


def write_json_lines(path: str | Path, values: Iterable[dict[str, Any]]) -> None:
    """Writes objects as JSON, one per line; the file stands complete or not at all."""
    with atomic_open(path) as file:
        for value in values:
            file.write(json.dumps(value, ensure_ascii=False).encode() + b"\n")


def parse_json(content: bytes, where: str) -> Any:
    """Parses JSON in UTF-8.

    Args:
        content: The bytes.
        where: Path, and line if there are several, for the message.

    Raises:
        InputError: The bytes are not valid JSON, nest too deeply, hold a number of thousands of
            digits, or half of a surrogate pair, which no UTF-8 file can hold.
    """
    try:
        value = json.loads(content.decode("utf-8"))
        if b"\\ud" in content or b"\\uD" in content:
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{where}: not valid JSON: holds half of a surrogate pair") from error
    except ValueError as error:  # covers bad UTF-8 and numbers of too many digits
        raise InputError(f"{where}: not valid JSON: {error}") from error
    except RecursionError as error:
        raise InputError(f"{where}: not valid JSON: nested too deeply") from error
    except MemoryError as error:
        raise InputError(f"{where}: not readable: out of memory") from error
    return value


def _read_line(file: Any, path: str | Path, max_bytes: int) -> bytes:
    with parse_errors(path, "a readable file"):
        line: bytes = file.readline(max_bytes + 1)
    return line
