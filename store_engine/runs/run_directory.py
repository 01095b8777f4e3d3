"""A run directory: everything that training leaves behind, and all that an engine needs.

run.json lists the files with their digests, from the moment that each is complete: a file that it
does not list is not part of the run. Weights, SIDs and trie are safetensors, npz and the core's
own format: no file is ever unpickled. One process at a time writes, under a lock; reading needs
none.
"""

import contextlib
import datetime
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import store_engine
from store_engine.config import Config, build_config, dump_config, read_config_tree
from store_engine.errors import InputError
from store_engine.files.atomic import atomic_open, is_temporary
from store_engine.files.digest import sha256
from store_engine.files.directory_swap import StagedDirectory, recover
from store_engine.files.lock import FileLock
from store_engine.files.verification import VerifiedFiles
from store_engine.runs.format1 import DATA_FILE, read_config1
from store_engine.runs.manifest import (
    FORMAT,
    FileEntry,
    Manifest,
    read_manifest,
    write_manifest,
)
from store_engine.runs.run_paths import RunPaths

# of runs whose config does not state them
_BEFORE_CHOICES = (("recommender", "first_item_loss", True), ("data", "strip_html", False))


class RunOrigin(NamedTuple):
    """What a new run begins with."""

    config: Config
    dataset: str  # name of the data set
    sources: Mapping[str, str] = {}  # absolute path of each file that was read -> its SHA-256


class RunDirectory(RunPaths):
    """A run that is there; made by `create`, `open` or `open_to_write`.

    Attributes:
        lock_held: The lock, in the process that writes; None elsewhere.
    """

    def __init__(self, root: Path, lock: FileLock | None = None) -> None:
        super().__init__(root)
        self.lock_held = lock
        self._verified = VerifiedFiles(self.verified)

    @classmethod
    def open(cls, root: str | Path) -> "RunDirectory":
        """Opens a run to read from it.

        Raises:
            InputError: The directory is missing, is no run, or its run.json is damaged or of
                another format.
        """
        run = cls(Path(root))
        if not run.manifest.exists():
            with contextlib.suppress(OSError):  # a replacement in two steps may have been killed
                recover(run.root)
        read_manifest(run.manifest)
        return run

    @classmethod
    def open_to_write(cls, root: str | Path) -> "RunDirectory":
        """Opens a run and takes its lock; a run of an older format is rewritten in this one.

        Raises:
            InputError: As `open`, or another process writes to the run.
        """
        run = cls.open(root)
        with _write_errors(run.root):
            run.lock_held = FileLock.acquire(run.lock, str(root))
            run._remove_leftovers()
            run.upgrade()
        return run

    @classmethod
    def create(
        cls,
        root: Path,
        origin: RunOrigin,
        write_data: Callable[[RunPaths], None],
        replaces: FileLock | None = None,
    ) -> "RunDirectory":
        """Begins a run, which appears with its data in one step, and takes its lock.

        Args:
            root: The directory to make.
            origin: Config and data set.
            write_data: Writes the run's copy of the data into the directory that it is given.
            replaces: The lock of the run that is there, which is removed; see `lock_to_replace`.

        Raises:
            InputError: The directory cannot be written.
        """
        with _write_errors(root):
            recover(root)
            staged = StagedDirectory.stage(root)
            try:
                paths = RunPaths(staged.path)
                write_data(paths)
                with atomic_open(paths.config) as file:
                    file.write(dump_config(origin.config).encode())
                files = {name: file_entry(paths.root / name) for name in _bound_files(paths)}
                write_manifest(paths.manifest, _new_manifest(origin, files))
                return cls(root, staged.publish(replaces))
            except BaseException:
                staged.discard()
                raise

    def close(self) -> None:
        """Gives the lock back."""
        if self.lock_held is not None:
            self.lock_held.release()
            self.lock_held = None

    def __enter__(self) -> "RunDirectory":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def read_manifest(self) -> Manifest:
        """Reads what run.json says now.

        Raises:
            InputError: It is missing, damaged or of another format.
        """
        return read_manifest(self.manifest)

    def read_config(self, manifest: Manifest | None = None) -> Config:
        """Reads the run's config.

        Args:
            manifest: As for `check`.

        Raises:
            InputError: The file is missing or damaged.
        """
        manifest = manifest or self.read_manifest()
        self.check(self.config, manifest)
        read = read_config1 if manifest.format == 1 else read_config_tree
        return build_config(_with_old_defaults(read(self.config)))

    def is_complete(self, path: Path) -> bool:
        """Tells whether a file is there, listed, and made from the files that are there."""
        name = self._name(path)
        return os.path.isfile(path) and self.read_manifest().is_current(name)

    def check(self, path: Path, manifest: Manifest | None = None, always: bool = False) -> None:
        """Verifies a file of the run.

        Args:
            path: The file.
            manifest: What run.json said when the run was opened; None: what it says now.
            always: Read a large file again, although it was found whole before.

        Raises:
            InputError: The file is missing, damaged, not of this run, or made from another file
                than the one that is there.
        """
        problem = self.problem(self._name(path), manifest, always)
        if problem is not None:
            raise InputError(f"{path}: {problem}")

    def problem(
        self, name: str, manifest: Manifest | None = None, always: bool = False
    ) -> str | None:
        """Says what is wrong with a file of the run, None if nothing is.

        Args:
            name: Its name in run.json.
            manifest: As for `check`.
            always: As for `check`.

        Raises:
            InputError: It cannot be read.
        """
        manifest = manifest or self.read_manifest()
        path, entry = self.root / name, manifest.files.get(name)
        if entry is None:
            return "not part of the run (run.json does not list it)"
        if not os.path.isfile(path):
            return "missing" if not os.path.exists(path) else "not a regular file"
        if not manifest.is_current(name):
            return f"was made from another {' or '.join(entry.made_from)}"
        if entry.next_sha256 and self._verified.matches(path, entry.next_sha256, always):
            return None
        size = path.stat().st_size
        if entry.sha256 and size != entry.num_bytes:
            return f"changed or damaged: has {size:,} bytes, {entry.num_bytes:,} were written"
        if entry.sha256 and not self._verified.matches(path, entry.sha256, always):
            return "changed or damaged: its content is not what was written"
        return None

    @contextlib.contextmanager
    def writing(self, *paths: Path) -> Iterator[None]:
        """Lists files in run.json once the block that writes them has ended well.

        Until then they are not part of the run: a kill leaves a stage that is made again.

        Raises:
            ValueError: This process does not hold the run's lock.
        """
        manifest = self._manifest_to_write()
        names = [self._name(path) for path in paths]
        if any(name in manifest.files for name in names):
            others = {name: e for name, e in manifest.files.items() if name not in names}
            write_manifest(self.manifest, manifest._replace(files=others))
        yield
        manifest = self._manifest_to_write()
        files = dict(manifest.files)
        for path in paths:
            origins = [self._name(origin) for origin in self.made_from(path)]
            made_from = {name: files[name].sha256 for name in origins if name in files}
            files[self._name(path)] = file_entry(path, made_from)
        write_manifest(self.manifest, manifest._replace(files=files))

    def write_config(self, config: Config) -> None:
        """Replaces the config; the run is whole at every moment.

        Raises:
            ValueError: This process does not hold the run's lock.
        """
        content, manifest = dump_config(config).encode(), self._manifest_to_write()
        name = self._name(self.config)
        entry = manifest.files[name]
        for digest in (entry.sha256, entry.next_sha256):  # after a kill it can be either
            if digest and sha256(self.config) == digest:
                entry = FileEntry(self.config.stat().st_size, digest)
        entry = entry._replace(next_sha256=hashlib.sha256(content).hexdigest())
        write_manifest(self.manifest, manifest._replace(files=manifest.files | {name: entry}))
        with atomic_open(self.config) as file:
            file.write(content)
        files = manifest.files | {name: file_entry(self.config)}
        write_manifest(self.manifest, manifest._replace(files=files))

    def _manifest_to_write(self) -> Manifest:
        if self.lock_held is None:
            raise ValueError(f"{self.root}: only the process that holds the lock may write")
        return self.read_manifest()

    def _name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    def upgrade(self) -> None:
        """Rewrites a run of format 1; a kill on the way leaves one that can be rewritten again."""
        manifest = self.read_manifest()
        if manifest.format == FORMAT:
            return
        with atomic_open(self.config) as file:
            file.write(
                dump_config(build_config(_with_old_defaults(read_config1(self.config)))).encode()
            )
        files = {}
        for name in manifest.files:
            origins = [self._name(origin) for origin in self.made_from(self.root / name)]
            if (self.root / name).is_file():
                made_from = {o: sha256(self.root / o) for o in origins if (self.root / o).is_file()}
                files[name] = file_entry(self.root / name, made_from)
        write_manifest(self.manifest, manifest._replace(format=FORMAT, files=files))
        (self.root / DATA_FILE).unlink(missing_ok=True)

    def _remove_leftovers(self) -> None:
        """Removes the temporary files of processes that were killed."""
        for path in self.root.rglob(".*.tmp"):
            if is_temporary(path.name) and path.is_file():
                path.unlink(missing_ok=True)


def lock_to_replace(root: Path) -> FileLock:
    """Takes the lock of a run that is to be replaced, if nothing but the run would be lost.

    Raises:
        InputError: The directory holds something that no run has, is the current directory or
            above it, cannot be written, or another process writes to it.
    """
    if (foreign := RunPaths(root).foreign()) != []:
        raise InputError(
            f"{root}: will not be overwritten: {foreign[0]} is not part of a run, move it away"
        )
    with _write_errors(root):
        return FileLock.acquire(RunPaths(root).lock, str(root))


def _new_manifest(origin: RunOrigin, files: dict[str, FileEntry]) -> Manifest:
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    version = store_engine.__version__
    return Manifest(FORMAT, version, origin.dataset, now, files, dict(origin.sources))


def _with_old_defaults(tree: dict[str, Any]) -> dict[str, Any]:
    """States what was so before there was a choice, in a config that does not state it."""
    for section, key, value in _BEFORE_CHOICES:
        if isinstance(values := tree.get(section), dict):
            values.setdefault(key, value)
    return tree


def _bound_files(paths: RunPaths) -> Iterator[str]:
    for path in sorted(paths.root.rglob("*")):
        if path.is_file() and path != paths.lock:
            yield path.relative_to(paths.root).as_posix()


def file_entry(path: Path, made_from: Mapping[str, str] | None = None) -> FileEntry:
    """Makes the entry of a file as it is now."""
    return FileEntry(path.stat().st_size, sha256(path), dict(made_from or {}))


@contextlib.contextmanager
def _write_errors(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"{root}: cannot be written: {error.strerror}") from error
