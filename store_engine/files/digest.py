"""SHA-256 digests, by which files are recognised."""

import hashlib
import re
from pathlib import Path
from typing import Any

from store_engine.files.regular import open_regular, parse_errors

_SHA256 = re.compile("[0-9a-f]{64}")


def sha256(path: str | Path) -> str:
    """Computes the SHA-256 of a regular file, in hexadecimal; the file is read in parts.

    Raises:
        InputError: The file is missing, cannot be read, or is no regular file.
    """
    with open_regular(path) as file, parse_errors(path, "a readable file"):
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_sha256(value: Any) -> bool:
    """Tells whether a value read from a file has the form of a digest."""
    return isinstance(value, str) and _SHA256.fullmatch(value) is not None


def text_sha256(text: str) -> str:
    """Computes the SHA-256 of a text in UTF-8, in hexadecimal."""
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
