"""What is whole in a run directory and what is not; needs neither torch nor the model."""

from pathlib import Path
from typing import NamedTuple

from store_engine.errors import InputError
from store_engine.files.digest import sha256
from store_engine.files.json_file import read_json
from store_engine.files.lock import lock_owner
from store_engine.runs.manifest import Manifest
from store_engine.runs.run_directory import RunDirectory
from store_engine.runs.run_paths import STAGES


class FileState(NamedTuple):
    """One file of a run."""

    name: str
    num_bytes: int  # as listed
    problem: str | None  # None: it is whole


class RunReport(NamedTuple):
    """What was found out about a run."""

    manifest: Manifest
    config: str | None  # what is wrong with the config; None: it can be read
    files: tuple[FileState, ...]
    unlisted: tuple[str, ...]  # names that no run has
    stage: str  # how far the training came
    owner: str | None  # the process that holds the lock

    @property
    def not_whole(self) -> list[str]:
        """Names of the files with which something is wrong."""
        bad = [file.name for file in self.files if file.problem is not None]
        return bad if self.config is None or "config.toml" in bad else ["config.toml", *bad]


def inspect_run(root: Path, verify: bool = False) -> RunReport:
    """Looks at every file of a run.

    Args:
        root: The run directory.
        verify: Read every file again, the checkpoints too; else a large file that was found whole
            before and was not touched since is trusted.

    Raises:
        InputError: The directory is no run, or its run.json is damaged.
    """
    run = RunDirectory.open(root)
    manifest = run.read_manifest()
    files = [
        FileState(name, entry.num_bytes, _problem(run, name, manifest, verify))
        for name, entry in manifest.files.items()
    ]
    files += [
        FileState(str(path.relative_to(root)), path.stat().st_size, "not listed in run.json")
        for path in (*run.vocabulary, run.items, run.histories, *run.made_later)
        if path.exists() and path.name not in manifest.files and not _is_old_trie(run, path)
    ]
    if verify:
        files += _checkpoint_files(run)
    try:
        run.read_config()
        config = None
    except InputError as error:
        config = str(error)
    try:
        owner = lock_owner(run.lock)
    except OSError as error:
        owner = f"an unknown process ({error.strerror})"
    return RunReport(manifest, config, tuple(files), tuple(run.foreign()), _stage(run), owner)


def _problem(run: RunDirectory, name: str, manifest: Manifest, verify: bool) -> str | None:
    try:
        return run.problem(name, manifest, verify)
    except InputError as error:  # it cannot be read
        return str(error)


def _is_old_trie(run: RunDirectory, path: Path) -> bool:
    """Whether it is the trie of a run of format 1, which is bound to nothing and never read."""
    return path == run.trie and run.read_manifest().format == 1


def _checkpoint_files(run: RunDirectory) -> list[FileState]:
    """The files of the last checkpoint of each stage."""
    states = []
    for stage in STAGES:
        folder = run.checkpoints / stage
        latest = folder / "latest.json"
        if not latest.exists():
            continue
        prefix = folder.relative_to(run.root).as_posix()
        try:
            files = read_json(latest)["files"]
            digests = {str(name): str(digest) for name, digest in files.items()}
        except (InputError, KeyError, AttributeError) as error:
            states.append(FileState(f"{prefix}/latest.json", 0, f"not readable: {error}"))
            continue
        for name, digest in digests.items():
            states.append(_checkpoint_file(folder, prefix, name, digest))
    return states


def _checkpoint_file(folder: Path, prefix: str, name: str, digest: str) -> FileState:
    path = folder / name
    if ".." in Path(name).parts or Path(name).is_absolute():
        return FileState(f"{prefix}/latest.json", 0, f"names {name!r}, outside of its folder")
    try:
        problem = None if sha256(path) == digest else "changed or damaged"
        return FileState(f"{prefix}/{name}", path.stat().st_size, problem)
    except InputError as error:
        return FileState(f"{prefix}/{name}", 0, str(error))


def _stage(run: RunDirectory) -> str:
    if run.is_complete(run.metrics) and run.is_complete(run.model_weights):
        return "finished and measured"
    if run.is_complete(run.model_weights):
        return "finished, not measured"
    if run.is_complete(run.training_weights):
        return f"stage 2 is to be trained anew{_steps(run, 'refit')}"
    if run.is_complete(run.sids):
        return f"stage 2 is to be trained{_steps(run, 'recommender')}"
    if run.is_complete(run.tokenizer_weights):
        return "stage 1 is trained, the items have no SIDs yet"
    return f"stage 1 is to be trained{_steps(run, 'tokenizer')}"


def _steps(run: RunDirectory, stage: str) -> str:
    try:
        step = read_json(run.checkpoints / stage / "latest.json").get("step")
    except InputError:
        return ", no checkpoint"
    return f", checkpoint of step {step}" if type(step) is int else ", its checkpoint is damaged"
