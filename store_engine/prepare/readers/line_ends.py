"""Records of which some end with LF and some with CR LF: DuckDB reads either, not both.

What a quoted field holds ends no record: a note of several lines may have LF in a file of CR LF.
"""

import csv
import io
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from store_engine.data.tables.dialects import csv_reader
from store_engine.files.atomic import atomic_open
from store_engine.files.regular import open_regular, parse_errors
from store_engine.prepare.readers.literal_lines import unpacked
from store_engine.prepare.readers.storage import Storage, place_of_copy

_BLOCK_BYTES = 1 << 22
_BOTH = frozenset(("\n", "\r\n"))


def with_even_lines(storage: Storage, folder: Path) -> Storage:
    """Writes files whose records end in both ways with LF alone.

    Args:
        storage: The files.
        folder: Where the copies are written, under the files' own names.

    Returns:
        The copies; where only fields hold the other line end, the files with `line_end` told; else
        `storage` as it is.

    Raises:
        InputError: A file cannot be read.
    """
    if storage.kind != "delimited" or storage.encoding == "utf-16":
        return storage
    if not any(_is_mixed(blocks(path, storage.compression)) for path in storage.files):
        return storage
    ends = _record_ends(storage)
    if len(ends) == 1:
        return replace(storage, line_end=min(ends))
    copies = []
    for number, path in enumerate(storage.files):
        copies.append(place_of_copy(path, number, folder))
        with atomic_open(copies[-1]) as target:
            target.writelines(_with_feeds(blocks(path, storage.compression)))
    return replace(storage, files=tuple(copies), compression="none")


def blocks(path: Path, compression: str) -> Iterator[bytes]:
    """Walks over a file's bytes, unpacked.

    Args:
        path: The file.
        compression: none, gzip or zstd.

    Raises:
        InputError: The file cannot be read.
    """
    with open_regular(path) as file, parse_errors(path, "a readable file"):
        stream = unpacked(file, compression)
        while block := stream.read(_BLOCK_BYTES):
            yield bytes(block)


def text_lines(path: Path, storage: Storage) -> Iterator[str]:
    """Walks over the lines of one of a table's files, each with its line feed.

    Raises:
        InputError: The file cannot be read.
    """
    with open_regular(path) as file, parse_errors(path, "a readable file"):
        stream = unpacked(file, storage.compression)
        encoding = "utf-8-sig" if storage.encoding == "utf-8" else storage.encoding
        yield from io.TextIOWrapper(stream, encoding, "surrogateescape", newline="\n")


def records(path: Path, storage: Storage) -> Iterator[list[str]]:
    """Walks over the records of one of a table's files: each one's lines, as `text_lines` has them.

    Raises:
        InputError: The file cannot be read.
        csv.Error: A quote does not fit.
    """
    lines: list[str] = []

    def noted() -> Iterator[str]:
        for line in text_lines(path, storage):
            lines.append(line)
            yield line

    for _ in csv_reader(noted(), storage.delimiter[:1], storage.quote, storage.escape, strict=True):
        yield lines.copy()
        lines.clear()


def _record_ends(storage: Storage) -> frozenset[str]:
    """The line ends that end a record; both, where a quote does not fit."""
    if not storage.quote:
        return _BOTH
    ends = set()
    try:
        for path in storage.files:
            for lines in records(path, storage):
                if lines[-1].endswith("\n"):
                    ends.add("\r\n" if lines[-1].endswith("\r\n") else "\n")
                if ends == _BOTH:
                    return _BOTH
    except csv.Error:
        return _BOTH
    return frozenset(ends)


def _is_mixed(blocks: Iterable[bytes]) -> bool:
    num_feeds = num_pairs = 0
    last = b""
    for block in blocks:
        num_feeds += block.count(b"\n")
        num_pairs += block.count(b"\r\n") + (last == b"\r" and block[:1] == b"\n")
        last = block[-1:]
        if 0 < num_pairs < num_feeds:
            return True
    return False


def _with_feeds(blocks: Iterable[bytes]) -> Iterator[bytes]:
    carried = b""  # a carriage return whose line feed may begin the next block
    for block in blocks:
        block = carried + block
        carried = b"\r" if block.endswith(b"\r") else b""
        yield block[: len(block) - len(carried)].replace(b"\r\n", b"\n")
    yield carried
