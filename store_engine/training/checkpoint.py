"""Checkpoints of a stage: DeepSpeed writes them, a manifest with checksums makes them count.

A checkpoint exists from the moment `latest.json` names it; the file is replaced atomically after
everything else is on disk, so a kill at any moment leaves the one before. A checkpoint holds
optimiser state and is read by the training that wrote it, only after its checksums are verified;
everything else reads safetensors.

ZeRO's optimiser state is cut for the number of ranks that wrote it. Another number of ranks reads
it through DeepSpeed's universal checkpoint: every parameter's state put together again, then cut
anew.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

from store_engine.errors import InputError
from store_engine.files.atomic import atomic_open
from store_engine.files.digest import sha256
from store_engine.files.json_file import read_json

_MANIFEST = "latest.json"
_UNIVERSAL = "universal"  # folder of the state put together again, while it is read


class Position(NamedTuple):
    """Where a training stands."""

    stage: str
    step: int  # steps done
    num_ranks: int
    zero_stage: int


def save_checkpoint(engine: Any, directory: Path, position: Position) -> None:
    """Writes a checkpoint and removes the one before. Every rank calls it.

    Raises:
        InputError: The disk is full or cannot be written; the checkpoint before stays.
    """
    tag = f"{position.stage}-{position.step:08d}"
    rank = torch.distributed.get_rank()
    if rank == 0:  # what a killed run left here, perhaps of more ranks
        shutil.rmtree(directory / tag, ignore_errors=True)
    torch.distributed.barrier()
    with _write_errors(directory, tag):
        engine.save_checkpoint(str(directory), tag=tag, save_latest=False)
    torch.distributed.barrier()
    paths = sorted(path for path in (directory / tag).rglob("*") if path.is_file())
    files = _checksums(directory, [str(path.relative_to(directory)) for path in paths])
    if rank == 0:
        manifest = {**position._asdict(), "tag": tag, "files": files}
        with _write_errors(directory, tag), atomic_open(directory / _MANIFEST) as file:
            file.write(json.dumps(manifest, indent=1).encode())
        for old in directory.iterdir():
            if old.is_dir() and old.name != tag:
                shutil.rmtree(old)
    torch.distributed.barrier()


def last_position(directory: Path) -> Position | None:
    """Where the last checkpoint stands; None if there is none."""
    manifest = _read_manifest(directory)
    return None if manifest is None else Position(*(manifest[name] for name in Position._fields))


def load_checkpoint(engine: Any, directory: Path) -> None:
    """Loads the last checkpoint into the engine, after verifying its checksums. Every rank calls.

    Args:
        engine: Made with `universal_config`, if another number of ranks wrote the checkpoint.
        directory: The stage's checkpoints.

    Raises:
        InputError: A file is missing or differs from what was written.
    """
    manifest = _read_manifest(directory)
    if manifest is None:
        raise InputError(f"{directory}: holds no checkpoint")
    found = _checksums(directory, sorted(manifest["files"]))
    for name, checksum in manifest["files"].items():
        if found[name] != checksum:
            raise InputError(
                f"{directory / name}: missing or damaged (its checksum differs from {_MANIFEST})"
            )
    if not engine.load_universal_checkpoint():
        engine.load_checkpoint(str(directory), tag=manifest["tag"])
        return
    is_first = torch.distributed.get_rank() == 0
    if is_first:
        _put_together(directory / manifest["tag"], directory / _UNIVERSAL)
    torch.distributed.barrier()
    groups = engine.optimizer.param_groups
    settings = [{k: v for k, v in group.items() if k != "params"} for group in groups]
    engine.load_checkpoint(str(directory), tag=_UNIVERSAL)
    # DeepSpeed 0.19 gives every group the settings of the first, its weight decay too, and all
    # of them one and the same step tensor, which would then be counted up once per group
    for group, stated in zip(engine.optimizer.param_groups, settings, strict=True):
        group.update(stated)
    for state in engine.optimizer.optimizer.state.values():
        state["step"] = state["step"].clone()
    torch.distributed.barrier()
    if is_first:
        shutil.rmtree(directory / _UNIVERSAL)


def universal_config(
    ds_config: dict[str, Any], position: Position, num_ranks: int
) -> dict[str, Any]:
    """DeepSpeed's config for an engine that will load the checkpoint of `position`.

    Without ZeRO every rank holds the whole state, and any number of ranks can read it as it is.
    """
    if position.num_ranks == num_ranks or position.zero_stage == 0:
        return ds_config
    return ds_config | {"checkpoint": ds_config.get("checkpoint", {}) | {"load_universal": True}}


def _put_together(source: Path, target: Path) -> None:
    """Writes ZeRO's shards as one file per parameter and state, by DeepSpeed's own tool."""
    shutil.rmtree(target, ignore_errors=True)
    command = [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal"]
    command += ["--input_folder", str(source), "--output_folder", str(target)]
    command += ["--num_extract_workers", "1", "--num_merge_workers", "1", "--inject_missing_state"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        shutil.rmtree(target, ignore_errors=True)
        last_line = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise InputError(
            f"{source}: cannot be read by another number of ranks: "
            f"ds_to_universal says: {last_line[0]}"
        )


@contextmanager
def _write_errors(directory: Path, tag: str) -> Iterator[None]:
    """Turns a full disk into one clear line, and gives its room back."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        # torch's writer raises a RuntimeError that does not say why: ask the disk
        reason = error if isinstance(error, OSError) else _write_error(directory)
        shutil.rmtree(directory / tag, ignore_errors=True)
        if reason is None:
            raise
        position = last_position(directory)
        kept = f"the one of step {position.step} is kept" if position else "there is none before it"
        raise InputError(
            f"{directory / tag}: the checkpoint cannot be written: {reason.strerror}; {kept}, "
            f"--resume goes on"
        ) from error


def _write_error(directory: Path) -> OSError | None:
    """Why a MiB cannot be written to `directory`, or None if it can."""
    probe = directory / "probe.tmp"
    try:
        with probe.open("wb") as file:
            file.write(bytes(1 << 20))
            os.fsync(file.fileno())
    except OSError as error:
        return error
    finally:
        probe.unlink(missing_ok=True)
    return None


def _read_manifest(directory: Path) -> dict[str, Any] | None:
    path = directory / _MANIFEST
    if not path.exists():
        return None
    manifest = read_json(path)
    if missing := {*Position._fields, "tag", "files"} - set(manifest):
        raise InputError(f"{path}: lacks {', '.join(sorted(missing))}")
    return manifest


def _checksums(directory: Path, names: Sequence[str]) -> dict[str, str]:
    """SHA-256 of files, "" where one is missing; the ranks share the work."""
    rank, num_ranks = torch.distributed.get_rank(), torch.distributed.get_world_size()
    own = {name: _durable_sha256(directory / name) for name in names[rank::num_ranks]}
    shares: list[dict[str, str]] = [{}] * num_ranks
    torch.distributed.all_gather_object(shares, own)
    return {name: checksum for share in shares for name, checksum in share.items()}


def _durable_sha256(path: Path) -> str:
    """The file's checksum, once it is on the disk and not only in the system's memory."""
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return sha256(path)
