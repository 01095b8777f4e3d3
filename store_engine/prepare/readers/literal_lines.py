"""Lines that are Python literals, as the Amazon 2014 and Steam dumps have them -> JSON lines."""

import ast
import json
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from store_engine.data.tables.lines import MAX_LINE_BYTES
from store_engine.files.atomic import atomic_open
from store_engine.files.regular import open_regular, parse_errors


def parse_literal(line: str) -> dict[str, Any] | None:
    """Reads one line; None where it is no dict of literals. Nothing of it is run."""
    try:
        with warnings.catch_warnings(action="ignore"):  # an invalid escape is a warning
            value = ast.literal_eval(line.strip())
    except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
        return None
    return value if isinstance(value, dict) else None


def unpacked(file: BinaryIO, compression: str) -> Any:
    """Returns a stream of a file's bytes; the compression is none, gzip or zstd."""
    return file if compression == "none" else pa.CompressedInputStream(file, compression)


def write_json_lines(files: Iterable[Path], compression: str, out: Path) -> dict[str, int]:
    """Writes the objects of literal lines as JSON lines.

    Args:
        files: The files.
        compression: none, gzip or zstd.
        out: The file to write.

    Returns:
        Where the first line stands that is no dict of literals, and how many there are: at most
        one entry, "FILE line N" -> count.

    Raises:
        InputError: A file cannot be read.
    """
    first, num_bad = "", 0
    with atomic_open(out) as target:
        for path in files:
            with open_regular(path) as file, parse_errors(path, "a readable file"):
                for number, line in enumerate(_lines(unpacked(file, compression)), 1):
                    value = parse_literal(line.decode("utf-8", errors="replace"))
                    text = None if value is None else _json(value)
                    if text is None:
                        num_bad += 1
                        first = first or f"{path} line {number}"
                    else:
                        target.write(text)
    return {first: num_bad} if num_bad else {}


def _lines(stream: Any) -> Iterable[bytes]:
    """Lines of any stream of bytes that are not blank."""
    rest = b""
    while block := stream.read(1 << 20):
        *lines, rest = (rest + block).split(b"\n")
        yield from filter(bytes.strip, lines)
        if len(rest) > MAX_LINE_BYTES:
            raise ValueError(f"a line is longer than {MAX_LINE_BYTES:,} bytes")
    if rest.strip():
        yield rest


def _json(value: dict[str, Any]) -> bytes | None:
    try:
        return json.dumps(value, ensure_ascii=True).encode() + b"\n"
    except (TypeError, ValueError, RecursionError):  # bytes, sets: no JSON has them
        return None
