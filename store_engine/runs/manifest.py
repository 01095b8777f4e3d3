"""run.json: which files a run is made of, and the digests that bind them together."""

import os
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from store_engine.errors import InputError, shown
from store_engine.files.digest import is_sha256
from store_engine.files.json_file import read_json, write_json
from store_engine.runs.format1 import read_format1

_MAX_NAME_LENGTH = 200
FORMAT = 2  # raised when directories written before can no longer be read as they are


class FileEntry(NamedTuple):
    """One file of a run."""

    num_bytes: int
    sha256: str  # "" in format 1, which has digests of the data alone
    made_from: dict[str, str] = {}  # noqa: RUF012 - names of other files -> their digests then
    next_sha256: str = ""  # of what is about to replace it; a kill on the way leaves either


class Lineage(NamedTuple):
    """The run that a run went on from."""

    run_dir: str  # absolute path, at that time
    created: str  # date and time, ISO 8601
    version: str  # of the package that began it
    weights: str  # SHA-256 of its model.safetensors


class Manifest(NamedTuple):
    """What run.json holds."""

    format: int
    version: str  # of the package that began the run
    dataset: str  # name of the data set
    created: str  # date and time, ISO 8601
    files: dict[str, FileEntry]  # by path within the run, with "/"
    sources: dict[str, str]  # absolute path of each file that was read -> its digest
    parent: Lineage | None = None  # None: trained from the start

    def is_current(self, name: str) -> bool:
        """Tells whether a file is listed and what it was made from is still the same."""
        entry = self.files.get(name)
        return entry is not None and all(
            other in self.files and self.files[other].sha256 == digest
            for other, digest in entry.made_from.items()
        )


def read_manifest(path: Path) -> Manifest:
    """Reads run.json, of this format or of format 1.

    Raises:
        InputError: The file is missing, damaged, or of another format.
    """
    run_dir = path.parent
    if not os.path.exists(path):
        raise InputError(f"{run_dir}: not a run directory (it has no run.json)")
    values = read_json(path)
    match values:
        case {"format": int(number), "version": str(version)} if type(number) is int:
            pass
        case _:
            raise InputError(f"{path}: must state 'format' and 'version'")
    if number == 1:
        values = values | read_format1(run_dir)
    elif number != FORMAT:
        raise InputError(
            f"{run_dir}: written by store_engine {version} in format {number}; "
            f"this version reads formats 1 and {FORMAT}"
        )
    try:
        files = {
            _checked_name(name): _entry(entry, number) for name, entry in values["files"].items()
        }
        sources = {str(name): str(digest) for name, digest in values["sources"].items()}
        dataset, created = str(values["dataset"]), str(values["created"])
        parent = values.get("parent")
        parent = None if parent is None else Lineage(*(str(parent[n]) for n in Lineage._fields))
    except (KeyError, AttributeError, TypeError, ValueError) as error:
        raise InputError(f"{path}: damaged: {type(error).__name__}: {error}") from error
    return Manifest(number, version, dataset, created, files, sources, parent)


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Writes run.json, which stands complete or not at all."""
    files: dict[str, dict[str, Any]] = {}
    for name, entry in manifest.files.items():
        optional = {"made_from": entry.made_from, "next_sha256": entry.next_sha256}
        files[name] = {"bytes": entry.num_bytes, "sha256": entry.sha256}
        files[name] |= {key: value for key, value in optional.items() if value}
    content = manifest._asdict() | {"files": files}
    parent = content.pop("parent")
    write_json(path, content if parent is None else content | {"parent": parent._asdict()})


def _checked_name(name: str) -> str:
    """A path within the run: a manifest from elsewhere must not make us read outside of it."""
    path = PurePosixPath(name)
    is_plain = name.isprintable() and 0 < len(name) <= _MAX_NAME_LENGTH
    is_within = not path.is_absolute() and ".." not in path.parts
    if not is_plain or not is_within or str(path) != name or name == ".":
        raise ValueError(f"{shown(name)} is no path within the run")
    return name


def _entry(values: Any, format_number: int) -> FileEntry:
    match values:
        case {"bytes": int(num_bytes), "sha256": str(digest)} if 0 <= num_bytes < 1 << 63:
            made_from: dict[str, str] = values.get("made_from", {})
            following = values.get("next_sha256", "")
            digests = [following] if following != "" else []
            if digest != "" or format_number != 1:
                digests.append(digest)
            if all(map(is_sha256, [*digests, *made_from.values()])):
                return FileEntry(num_bytes, digest, made_from, following)
    raise ValueError(f"an entry must state bytes and sha256, got {shown(values)}")
