"""latest.json: how far a stage has come, and which files hold its state.

A checkpoint exists from the moment that this manifest names it. It lists every file with its
SHA-256, so that nothing is loaded that was not written with it.
"""

import json
import math
import os
import stat
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from store_engine.errors import InputError
from store_engine.files.atomic import atomic_open
from store_engine.files.digest import is_sha256
from store_engine.files.json_file import read_json
from store_engine.runs.run_paths import STAGES

MANIFEST = "latest.json"
_MAX_MANIFEST_BYTES = 1 << 24


class Best(NamedTuple):
    """The best validation measurement so far."""

    step: int  # steps done when it was taken
    score: float
    num_worse: int  # measurements since then


class TrainProgress(NamedTuple):
    """How far a stage has come."""

    stage: str
    step: int  # steps done
    num_ranks: int
    zero_stage: int
    num_threads: int = 0  # per rank; 0 = not known
    best: Best | None = None

    @property
    def tag(self) -> str:
        """Name of the checkpoint's folder."""
        return f"{self.stage}-{self.step:08d}"


class Manifest(NamedTuple):
    """A checkpoint as `latest.json` describes it."""

    progress: TrainProgress
    files: dict[str, str]  # path below the folder of checkpoints -> SHA-256


def best_weights_name(step: int) -> str:
    """Returns the name of the file with the weights that were measured after `step` steps."""
    return f"best-{step:08d}.safetensors"


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Makes a checkpoint count; the manifest stands complete or not at all."""
    progress, files = manifest
    best = None if progress.best is None else progress.best._asdict()
    content = {**progress._asdict(), "best": best, "tag": progress.tag, "files": files}
    with atomic_open(directory / MANIFEST) as file:
        file.write(json.dumps(content, indent=1).encode())


def read_progress(directory: Path) -> TrainProgress | None:
    """Reads how far a stage has come; None if it has no checkpoint.

    Raises:
        InputError: The manifest is not of the form that `write_manifest` gives it.
    """
    manifest = read_manifest(directory)
    return None if manifest is None else manifest.progress


def threads_before(checkpoints: Path) -> int:
    """Reads how many threads a run's training computed with, 0 if no checkpoint says so.

    Args:
        checkpoints: The run's folder with a folder for each stage.
    """
    saved = [read_progress(checkpoints / stage) for stage in reversed(STAGES)]
    return next((progress.num_threads for progress in saved if progress), 0)


def read_manifest(directory: Path) -> Manifest | None:
    """Reads what `write_manifest` wrote; None if there is nothing.

    Raises:
        InputError: It is not of that form. A path that leaves the checkpoint is refused too.
    """
    path = directory / MANIFEST
    if not os.path.lexists(path):
        return None
    content = read_json(path, _MAX_MANIFEST_BYTES)
    try:
        return _parse(content)
    except ValueError as error:
        raise InputError(f"{path}: {error}; this checkpoint cannot be resumed") from error


def checkpoint_files(directory: Path, progress: TrainProgress) -> list[str]:
    """Lists the checkpoint's files, as paths below `directory`, sorted.

    Raises:
        InputError: Something there is no regular file: a link could lead anywhere.
    """
    root, found = directory / progress.tag, []
    if root.is_symlink():
        raise InputError(f"{root}: must be a directory, is a link")
    for folder, folders, names in os.walk(root):
        for name in [*folders, *names]:
            path = Path(folder, name)
            mode = path.lstat().st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise InputError(f"{path}: must be a regular file: a checkpoint holds nothing else")
        found += [str(Path(folder, name).relative_to(directory)) for name in names]
    if progress.best is not None:
        name = best_weights_name(progress.best.step)
        if (directory / name).exists():  # not with `train.keep = "last"`
            found.append(name)
    return sorted(found)


def _parse(content: dict[str, Any]) -> Manifest:
    """Builds a manifest out of JSON; raises ValueError that says what is wrong."""
    if missing := {"stage", "step", "num_ranks", "zero_stage", "tag", "files"} - set(content):
        raise ValueError(f"lacks {', '.join(sorted(missing))}")
    stage, files = content["stage"], content["files"]
    if not (isinstance(stage, str) and stage.isidentifier()):
        raise ValueError(f"'stage' must be a name, is {stage!r}")
    progress = TrainProgress(
        stage,
        _count(content, "step", 0),
        _count(content, "num_ranks", 1),
        _count(content, "zero_stage", 0, 3),
        _count({"num_threads": 0} | content, "num_threads", 0),
        _parse_best(content.get("best")),
    )
    if content["tag"] != progress.tag:
        raise ValueError(f"'tag' must be {progress.tag!r}, is {content['tag']!r}")
    if not isinstance(files, dict) or not files:
        raise ValueError("'files' must list the checkpoint's files")
    others = set() if progress.best is None else {best_weights_name(progress.best.step)}
    for name, checksum in files.items():
        parts = PurePosixPath(name).parts
        is_inside = parts[:1] == (progress.tag,) and len(parts) > 1 and ".." not in parts
        if not (is_inside or name in others) or "\0" in name:
            raise ValueError(f"'files' lists {name!r}, which is not part of {progress.tag}")
        if not is_sha256(checksum):
            raise ValueError(f"'files' must give {name!r} a SHA-256, gives {checksum!r}")
    return Manifest(progress, files)


def _parse_best(best: Any) -> Best | None:
    if best is None:
        return None
    if not isinstance(best, dict) or set(best) != set(Best._fields):
        raise ValueError(f"'best' must state {', '.join(Best._fields)}, is {best!r}")
    score = best["score"]
    if type(score) not in (int, float) or not math.isfinite(score):
        raise ValueError(f"'score' must be a finite number, is {score!r}")
    return Best(_count(best, "step", 1), float(score), _count(best, "num_worse", 0))


def _count(content: dict[str, Any], name: str, least: int, most: int = 1 << 40) -> int:
    value = content[name]
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"'{name}' must be a whole number of at least {least}, is {value!r}")
    return value
