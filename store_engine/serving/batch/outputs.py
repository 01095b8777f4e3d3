"""Output shards: recommendations for many users, in a file of the form that its name says.

Parquet and JSON lines have a row per user: `user_id`, `item_ids` (list of text, best first) and
`scores` (list of float32). A csv or tsv has a row per user and rank, and the items' titles; a user
who gets nothing has none there. A file appears in one step. What it was made from is in Parquet's
own metadata; a text has no place for that, so it is in a hidden file beside it, with the digest of
the bytes that it is told of.
"""

import hashlib
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from store_engine.errors import InputError
from store_engine.files.atomic import atomic_open
from store_engine.files.digest import sha256
from store_engine.files.json_file import read_json, write_json
from store_engine.files.regular import open_regular
from store_engine.terminal import printable

Origin = dict[str, Any]  # what an output shard was made from

_SUFFIXES = (".parquet", ".jsonl", ".csv", ".tsv")
_PACKED = ".gz"
_KEY = b"store_engine.recommend"
_SCHEMA = pa.schema(
    {"user_id": pa.string(), "item_ids": pa.list_(pa.string()), "scores": pa.list_(pa.float32())}
)
_COLUMNS = ("user_id", "rank", "item_id", "score", "title")
_MAX_ORIGIN_BYTES = 1 << 16


class Recommended(NamedTuple):
    """What some users get, best first."""

    user_ids: list[str]
    item_ids: list[list[str]]
    scores: list[list[float]]
    titles: list[list[str]]


def is_form(path: Path) -> bool:
    """Tells whether a name says a form that an output can be written in."""
    return _form(path) is not None


def check_form(path: Path) -> None:
    """Refuses the name of an output that says no form that can be written.

    Raises:
        InputError: It ends in another way.
    """
    if not is_form(path) or path.is_dir():
        raise InputError(
            f"{path}: the output must be a file whose name ends in {', '.join(_SUFFIXES)}, or in "
            f"{_PACKED} behind one of the last three"
        )


def write_shard(path: Path, origin: Origin, parts: Iterable[Recommended]) -> None:
    """Writes an output shard, which stands complete or not at all.

    Args:
        path: The file; see `check_form`.
        origin: What it is made from, for `is_made_from`.
        parts: Users in the order of the input.

    Raises:
        InputError: The file cannot be written.
    """
    if _form(path) == ".parquet":
        schema = _SCHEMA.with_metadata({_KEY: _canonical(origin)})
        with atomic_open(path) as file, pq.ParquetWriter(file, schema) as writer:
            for part in parts:
                columns = [part.user_ids, part.item_ids, part.scores]
                writer.write_batch(pa.record_batch(columns, schema=schema))
        return
    found = hashlib.sha256()
    with atomic_open(path) as file:
        for content in _encoded(path, parts):
            found.update(content)
            file.write(content)
        # before the text is there: one without its origin would pass for somebody else's
        write_json(_beside(path), {"origin": origin, "sha256": found.hexdigest()})


def is_made_from(path: Path, origin: Origin, overwrite: bool = False) -> bool:
    """Tells whether an output shard is there and was made from this and nothing else.

    Args:
        path: The output.
        origin: What it should be made from.
        overwrite: One that was made from something else, or is no output, may be replaced.

    Raises:
        InputError: There is such a file, and it may not be replaced.
    """
    if not path.exists():
        return False
    found = _found_in_parquet(path) if _form(path) == ".parquet" else _found_beside(path)
    if found == _canonical(origin):
        return True
    if overwrite:
        return False
    if found is None:
        raise InputError(
            f"{path}: is there and was not written by recommend, or was changed since; move it "
            f"away, or --overwrite replaces it"
        )
    raise InputError(
        f"{path}: was made from another run, input or options; --overwrite replaces it"
    )


def digest(value: Any) -> str:
    """SHA-256 of a value that JSON can hold, in hexadecimal."""
    return hashlib.sha256(_canonical(value)).hexdigest()


def _form(path: Path) -> str | None:
    """The suffix that says how a file is written, without that of its compression."""
    *_, before, last = ("", "", *(suffix.lower() for suffix in path.suffixes))
    if last == _PACKED and before != ".parquet":  # which is compressed within
        last = before
    return last if last in _SUFFIXES else None


def _encoded(path: Path, parts: Iterable[Recommended]) -> Iterator[bytes]:
    """The bytes of a text, piece by piece."""
    form = _form(path)
    texts = (
        _json_lines(parts) if form == ".jsonl" else _rows(parts, "\t" if form == ".tsv" else ",")
    )
    if path.suffix.lower() != _PACKED:
        yield from (text.encode() for text in texts)
        return
    packer = zlib.compressobj(wbits=31)  # gzip, without a time: the same content, the same bytes
    yield from (packer.compress(text.encode()) for text in texts)
    yield packer.flush()


def _json_lines(parts: Iterable[Recommended]) -> Iterator[str]:
    for part in parts:
        scores = ([*map(float, _shortest(one))] for one in part.scores)
        rows = zip(part.user_ids, part.item_ids, scores, strict=True)
        values = (dict(zip(_SCHEMA.names, row, strict=True)) for row in rows)
        yield "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values)


def _rows(parts: Iterable[Recommended], separator: str) -> Iterator[str]:
    """Lines as RFC 4180 has them, but with LF: what Python's csv writes leaves a CR unquoted."""
    to_quote = re.compile(f'["\r\n{separator}]')

    def quoted(field: str) -> str:
        return '"' + field.replace('"', '""') + '"'

    def line(fields: Iterable[str]) -> str:
        return separator.join(quoted(f) if to_quote.search(f) else f for f in fields) + "\n"

    yield line(_COLUMNS)
    for part in parts:
        yield "".join(
            line((user, str(rank), item, score, printable(title)))
            for user, items, scores, titles in zip(*part, strict=True)
            for rank, (item, score, title) in enumerate(
                zip(items, _shortest(scores), titles, strict=True), 1
            )
        )


def _shortest(scores: Sequence[float]) -> list[str]:
    """The fewest digits that make the same float32."""
    texts: list[str] = np.array(scores, dtype=np.float32).astype(str).tolist()
    return texts


def _beside(path: Path) -> Path:
    """Where a text's origin is; Spark, Dask and this package's own folders skip such a name."""
    return path.with_name(f".{path.name}.origin.json")


def _found_in_parquet(path: Path) -> bytes | None:
    with open_regular(path) as file:
        try:
            return (pq.read_schema(file).metadata or {}).get(_KEY)
        except (pa.ArrowException, OSError, ValueError):
            return None


def _found_beside(path: Path) -> bytes | None:
    """What a text was made from, if it is still as it was written then."""
    try:
        found = read_json(_beside(path), _MAX_ORIGIN_BYTES)
    except InputError:
        return None
    is_same = found.get("sha256") == sha256(path)
    return _canonical(found.get("origin")) if is_same else None


def _canonical(value: Any) -> bytes:
    """JSON that is the same for equal values."""
    return json.dumps(value, sort_keys=True).encode()
