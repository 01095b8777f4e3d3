"""Lines of a text file, with their numbers, decoded strictly."""

from collections.abc import Iterator
from pathlib import Path

from store_engine.errors import InputError
from store_engine.files.regular import open_regular

MAX_FILE_BYTES = 1 << 36
MAX_LINE_BYTES = 1 << 24  # also pyarrow's block, which holds the longest line that it can take


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Reads a file line by line; a byte order mark is left out.

    Args:
        path: A regular file in UTF-8. A line ends with LF.

    Yields:
        Line number (1 = first) and text, with its line end.

    Raises:
        InputError: The file cannot be read, a line is too long or is not UTF-8.
    """
    with open_regular(path, MAX_FILE_BYTES) as file:
        number = 0
        while line := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            if len(line) > MAX_LINE_BYTES:
                raise InputError(f"{path} line {number}: longer than {MAX_LINE_BYTES:,} bytes")
            try:
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise InputError(
                    f"{path} line {number}: not UTF-8 (byte 0x{line[error.start]:02x} "
                    f"at position {error.start + 1}){_hint(number, line)}"
                ) from error


def _hint(number: int, line: bytes) -> str:
    is_utf16 = number == 1 and line[:2] in (b"\xff\xfe", b"\xfe\xff")
    return "; this is UTF-16, save the file as UTF-8" if is_utf16 else ""


def suffix_of(path: Path) -> str:
    """Returns what a file's name ends with, in small letters: `.csv` of `ITEMS.CSV`."""
    return path.suffix.lower()


def shown(value: object, limit: int = 60) -> str:
    """Quotes a value for a message: on one line, cut after `limit` characters."""
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}..."


class MissingColumnError(InputError):
    """A file lacks a column.

    Args:
        message: What is wrong, with the file's columns.
        name: The column that is wanted.
        found: Those that are there.
    """

    def __init__(self, message: str, name: str, found: list[str]) -> None:
        super().__init__(message)
        self.name, self.found = name, found


def require_columns(where: str, found: list[str], names: list[str]) -> None:
    """Refuses a file that lacks a column, or has it twice.

    Args:
        where: Path, and line if there is one, for the message.
        found: The file's columns.
        names: Those that must be there, once each.

    Raises:
        MissingColumnError: A name is not found.
        InputError: It is found twice.
    """
    for name in names:
        if found.count(name) != 1:
            problem = "appears twice" if name in found else "is missing"
            columns = " ".join(", ".join(map(_printable, found[:50])).split()) or "none"
            more = ", ..." if len(found) > 50 else ""
            shown_name = name or repr(name)
            message = f"{where}: column {shown_name} {problem}; columns: {columns}{more}"
            if name in found:
                raise InputError(message)
            raise MissingColumnError(message, name, found)


def _printable(name: str) -> str:
    return name if name.isprintable() and len(name) <= 60 else shown(name)
