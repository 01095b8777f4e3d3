"""Windows-1252, which DuckDB does not read: what Windows programs of the West save as text.

It is Latin-1 but for the bytes 80 to 9F, which are letters and marks (“ ” „ €) instead of controls.
"""

import codecs
from dataclasses import replace
from pathlib import Path

from store_engine.files.atomic import atomic_open
from store_engine.prepare.readers.line_ends import blocks
from store_engine.prepare.readers.storage import Storage, place_of_copy

_UNDEFINED = b"\x81\x8d\x8f\x90\x9d"
_LETTERS = "".join(
    bytes([byte]).decode("latin-1" if byte in _UNDEFINED else "cp1252") for byte in range(256)
)


def decode_windows_1252(data: bytes) -> str:
    """Decodes any bytes; the five that Windows-1252 does not define are controls.

    Source: the WHATWG's Encoding Standard, index windows-1252.
    """
    return codecs.charmap_decode(data, "strict", _LETTERS)[0]


def with_utf8(storage: Storage, folder: Path) -> Storage:
    """Writes files of Windows-1252 as UTF-8; other tables are returned as they are.

    Args:
        storage: The files.
        folder: Where the copies are written, under the files' own names.

    Raises:
        InputError: A file cannot be read.
    """
    if storage.encoding != "windows-1252":
        return storage
    copies = []
    for number, path in enumerate(storage.files):
        copies.append(place_of_copy(path, number, folder))
        with atomic_open(copies[-1]) as target:
            for block in blocks(path, storage.compression):
                target.write(decode_windows_1252(block).encode())
    return replace(storage, files=tuple(copies), compression="none", encoding="utf-8")
