"""Text files of which some lines end with LF and some with CR LF: DuckDB reads either, not both."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from store_engine.files.atomic import atomic_open
from store_engine.files.regular import open_regular, parse_errors
from store_engine.prepare.readers.literal_lines import unpacked
from store_engine.prepare.readers.storage import Storage

_BLOCK_BYTES = 1 << 22


def with_even_lines(storage: Storage, folder: Path) -> Storage:
    """Writes files that mix both with LF alone; other tables are returned as they are.

    Args:
        storage: The files.
        folder: Where the copies are written, under the files' own names.

    Raises:
        InputError: A file cannot be read.
    """
    if storage.kind != "delimited" or storage.encoding == "utf-16":
        return storage
    if not any(_is_mixed(_blocks(path, storage.compression)) for path in storage.files):
        return storage
    copies = []
    for number, path in enumerate(storage.files):
        copy = folder / str(number) / path.name
        copy.parent.mkdir(parents=True)
        with atomic_open(copy) as target:
            target.writelines(_with_feeds(_blocks(path, storage.compression)))
        copies.append(copy)
    return replace(storage, files=tuple(copies), compression="none")


def _blocks(path: Path, compression: str) -> Iterator[bytes]:
    with open_regular(path) as file, parse_errors(path, "a readable file"):
        stream = unpacked(file, compression)
        while block := stream.read(_BLOCK_BYTES):
            yield bytes(block)


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
