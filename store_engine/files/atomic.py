"""Files that stand complete or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def atomic_open(path: str | Path) -> Iterator[BinaryIO]:
    """Opens a temporary file beside `path` and moves it there once the block has ended well.

    A block that raises leaves `path` as it was and nothing beside it.

    Args:
        path: The file to make or to replace; its folder must exist.

    Yields:
        A binary file to write to.
    """
    path = Path(path)
    # the process id keeps ranks that write the same file apart
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
