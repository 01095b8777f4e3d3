"""Checkpoints of a stage: DeepSpeed writes them, a manifest with checksums makes them count.

A checkpoint exists from the moment `latest.json` names it; the file is replaced atomically after
everything else is on disk, so a kill at any moment leaves the one before. A checkpoint holds
optimiser state and is read by the training that wrote it, only after its checksums are verified;
everything else reads safetensors.
"""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import torch

from store_engine.data.atomic import atomic_open
from store_engine.errors import InputError

_MANIFEST = "latest.json"


class Position(NamedTuple):
    """Where a training stands."""

    stage: str
    step: int  # steps done
    num_ranks: int


def save_checkpoint(engine: Any, directory: Path, position: Position) -> None:
    """Writes a checkpoint and removes the one before. Every rank calls it."""
    tag = f"{position.stage}-{position.step:08d}"
    engine.save_checkpoint(str(directory), tag=tag, save_latest=False)
    torch.distributed.barrier()
    if torch.distributed.get_rank() == 0:
        files = {
            str(path.relative_to(directory)): _sha256(path)
            for path in sorted((directory / tag).rglob("*"))
            if path.is_file()
        }
        manifest = {**position._asdict(), "tag": tag, "files": files}
        with atomic_open(directory / _MANIFEST) as file:
            file.write(json.dumps(manifest, indent=1).encode())
        for old in directory.iterdir():
            if old.is_dir() and old.name != tag:
                shutil.rmtree(old)
    torch.distributed.barrier()


def last_position(directory: Path) -> Position | None:
    """Where the last checkpoint stands; None if there is none."""
    manifest = _read_manifest(directory)
    if manifest is None:
        return None
    return Position(manifest["stage"], manifest["step"], manifest["num_ranks"])


def load_checkpoint(engine: Any, directory: Path) -> None:
    """Loads the last checkpoint into the engine, after verifying its checksums.

    Raises:
        InputError: A file is missing or differs from what was written.
    """
    manifest = _read_manifest(directory)
    if manifest is None:
        raise InputError(f"{directory}: holds no checkpoint")
    for name, checksum in manifest["files"].items():
        path = directory / name
        if not path.is_file() or _sha256(path) != checksum:
            raise InputError(f"{path}: missing or damaged (its checksum differs from {_MANIFEST})")
    engine.load_checkpoint(str(directory), tag=manifest["tag"])


def _read_manifest(directory: Path) -> dict[str, Any] | None:
    path = directory / _MANIFEST
    if not path.exists():
        return None
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON: {error}") from error
    if missing := {"stage", "step", "num_ranks", "tag", "files"} - set(manifest):
        raise InputError(f"{path}: lacks {', '.join(sorted(missing))}")
    return manifest


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
