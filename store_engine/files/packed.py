"""Files that no reader of tables can read as they are, told by their first bytes."""

from pathlib import Path

from store_engine.errors import InputError

NUM_BYTES = 8  # of a file's start that are looked at

_PACKED = {
    b"PK\x03\x04": "a zip archive (or a spreadsheet): unpack it, or save the sheet as csv",
    b"BZh": "compressed by bzip2: unpack it",
    b"\xfd7zXZ": "compressed by xz: unpack it",
    b"7z\xbc\xaf": "a 7z archive: unpack it",
    b"\xd0\xcf\x11\xe0": "an old spreadsheet: save it as csv",
}
_STREAMS = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}


def refuse_archive(path: Path, start: bytes) -> None:
    """Refuses an archive or a spreadsheet.

    Args:
        path: The file, for the message.
        start: Its first bytes.

    Raises:
        InputError: It is one; says what is to be done first.
    """
    for magic, what in _PACKED.items():
        if start.startswith(magic):
            raise InputError(f"{path}: is {what} first")


def compression_of(start: bytes) -> str:
    """Returns by what a file is compressed, of the ways that can be read: none, gzip or zstd."""
    return next((name for magic, name in _STREAMS.items() if start.startswith(magic)), "none")


def refuse_packed(path: Path, start: bytes) -> None:
    """Refuses what is an archive, a spreadsheet or compressed; arguments as of `refuse_archive`.

    Raises:
        InputError: It is; says what is to be done first.
    """
    refuse_archive(path, start)
    if (compression := compression_of(start)) != "none":
        raise InputError(
            f"{path}: is compressed by {compression}: unpack it first (`store-engine prepare` "
            f"reads it as it is)"
        )
