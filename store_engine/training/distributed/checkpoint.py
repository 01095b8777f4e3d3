"""Checkpoints of a stage: DeepSpeed's files, and a manifest with their checksums.

A checkpoint exists from the moment `latest.json` names it; the file is replaced atomically after
everything else is on disk, so a kill at any moment leaves the one before. A checkpoint holds
optimiser state and is read by the training that wrote it, only after its checksums are verified,
and by an unpickler that makes tensors and a short list of DeepSpeed's own classes.

ZeRO's optimiser state is sharded for the number of ranks that wrote it. Another number of ranks
reads it through DeepSpeed's universal checkpoint: every parameter's state put together again, then
sharded anew.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
from deepspeed.runtime.zero.config import ZeroStageEnum
from deepspeed.utils.tensor_fragment import fragment_address
from torch import Tensor

from store_engine.errors import InputError
from store_engine.files.digest import sha256
from store_engine.model.weights import read_weights, save_weights
from store_engine.training.distributed.progress import (
    MANIFEST,
    Manifest,
    TrainProgress,
    best_weights_name,
    checkpoint_files,
    read_manifest,
    read_progress,
    write_manifest,
)

_UNIVERSAL = "universal"  # folder of the state put together again, while it is read
# what an optimiser's state holds beside tensors, numbers, strings and containers
_CLASSES = (LossScaler, DynamicLossScaler, ZeroStageEnum, fragment_address)
# Python before 3.11.4 pickles an enum's member as a call of getattr, which no reader may be allowed
ZeroStageEnum.__reduce_ex__ = lambda self, _: (type(self), (self.value,))
# torch.load then reads nothing but tensors and listed classes, whatever its caller asks for
_FORCE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"


def save_checkpoint(engine: Any, directory: Path, progress: TrainProgress) -> None:
    """Writes a checkpoint and removes the one before. Every rank calls it.

    Raises:
        InputError: The disk is full or cannot be written; the checkpoint before stays.
    """
    tag = progress.tag
    rank = torch.distributed.get_rank()
    if rank == 0:  # what a killed run left here, perhaps of more ranks
        shutil.rmtree(directory / tag, ignore_errors=True)
    torch.distributed.barrier()
    with _write_errors(directory, tag):
        engine.save_checkpoint(str(directory), tag=tag, save_latest=False)
    torch.distributed.barrier()
    checksums = _checksums(directory, checkpoint_files(directory, progress))
    if rank == 0:
        with _write_errors(directory, tag):
            write_manifest(directory, Manifest(progress, checksums))
        _remove_others(directory, progress)
    torch.distributed.barrier()


def load_checkpoint(engine: Any, directory: Path) -> None:
    """Loads the last checkpoint into the engine, after verifying its checksums. Every rank calls.

    Args:
        engine: Made with `universal_config`, if another number of ranks wrote the checkpoint.
        directory: The stage's checkpoints.

    Raises:
        InputError: A file is missing, differs from what was written, is not listed in the manifest
            or holds something that a checkpoint of ours does not.
    """
    manifest = read_manifest(directory)
    if manifest is None:
        raise InputError(f"{directory}: holds no checkpoint")
    _verify(directory, manifest)
    tag = manifest.progress.tag
    if not engine.load_universal_checkpoint():
        with _tensors_only(directory / tag):
            engine.load_checkpoint(str(directory), tag=tag)
        return
    is_first = torch.distributed.get_rank() == 0
    if is_first:
        _put_together(directory / tag, directory / _UNIVERSAL)
    torch.distributed.barrier()
    groups = engine.optimizer.param_groups
    settings = [{k: v for k, v in group.items() if k != "params"} for group in groups]
    with _tensors_only(directory / _UNIVERSAL):
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


def save_best_weights(weights: Mapping[str, Tensor], directory: Path, step: int) -> None:
    """Writes the weights that a validation measured; rank 0 calls it.

    They are valid once a checkpoint's manifest names them; the earlier ones are removed then.

    Raises:
        InputError: The disk is full or cannot be written.
    """
    name = best_weights_name(step)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        save_weights(weights, directory / name)
    except OSError as error:
        raise InputError(
            f"{directory / name}: cannot be written: {error.strerror}; {_what_is_kept(directory)}"
        ) from error


def read_best_weights(directory: Path, step: int) -> dict[str, Tensor]:
    """Reads what `save_best_weights` wrote.

    Raises:
        InputError: The file is missing or damaged.
    """
    return read_weights(directory / best_weights_name(step))


def universal_config(
    ds_config: dict[str, Any], progress: TrainProgress, num_ranks: int
) -> dict[str, Any]:
    """DeepSpeed's config for an engine that will load the checkpoint of `progress`.

    Without ZeRO every rank holds the whole state, and any number of ranks can read it as it is.
    """
    if progress.num_ranks == num_ranks or progress.zero_stage == 0:
        return ds_config
    return ds_config | {"checkpoint": ds_config.get("checkpoint", {}) | {"load_universal": True}}


def _verify(directory: Path, manifest: Manifest) -> None:
    """Refuses a checkpoint whose files are not exactly those that were written."""
    present, listed = checkpoint_files(directory, manifest.progress), sorted(manifest.files)
    if unlisted := set(present) - set(listed):
        raise InputError(f"{directory / min(unlisted)}: not part of the checkpoint ({MANIFEST})")
    found = _checksums(directory, listed)
    for name, checksum in manifest.files.items():
        if found[name] != checksum:
            raise InputError(
                f"{directory / name}: missing or damaged (its checksum differs from {MANIFEST})"
            )


def _remove_others(directory: Path, progress: TrainProgress) -> None:
    """Removes what is no part of the checkpoint: the one before, and leftovers of killed runs."""
    kept = {progress.tag}
    if progress.best is not None:
        kept.add(best_weights_name(progress.best.step))
    for old in directory.iterdir():
        if old.is_dir() and old.name not in kept:
            shutil.rmtree(old)
        elif old.match("best-*.safetensors") and old.name not in kept:
            old.unlink()


@contextmanager
def _tensors_only(source: Path) -> Iterator[None]:
    """Lets DeepSpeed, which asks `torch.load` for any pickle, read tensors and its own classes.

    Raises:
        InputError: A file holds something else.
    """
    before = os.environ.get(_FORCE)
    os.environ[_FORCE] = "1"
    try:
        with torch.serialization.safe_globals(list(_CLASSES)):
            yield
    except Exception as error:
        if "Weights only load failed" not in str(error):
            raise
        raise InputError(
            f"{source}: holds objects that no checkpoint of this engine has"
        ) from error
    finally:
        os.environ.pop(_FORCE)
        if before is not None:
            os.environ[_FORCE] = before


def _put_together(source: Path, target: Path) -> None:
    """Writes ZeRO's shards as one file per parameter and state, by DeepSpeed's own tool."""
    shutil.rmtree(target, ignore_errors=True)
    lines = ["import torch", "from deepspeed.checkpoint import ds_to_universal as tool"]
    lines += [f"from {__name__} import _CLASSES"]  # an enum is pickled by value there too
    lines += ["torch.serialization.add_safe_globals(list(_CLASSES))"]
    lines += ["tool.main(tool.parse_arguments())"]
    command = [sys.executable, "-c", "\n".join(lines)]
    command += ["--input_folder", str(source), "--output_folder", str(target)]
    command += ["--num_extract_workers", "1", "--num_merge_workers", "1", "--inject_missing_state"]
    environment = {**os.environ, _FORCE: "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        shutil.rmtree(target, ignore_errors=True)
        last_line = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise InputError(
            f"{source}: cannot be read by another number of ranks: "
            f"ds_to_universal says: {last_line[0]}"
        )


@contextmanager
def _write_errors(directory: Path, tag: str) -> Iterator[None]:
    """Turns a full disk into one clear line, and frees the space that was used."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        # torch's writer raises a RuntimeError that does not say why: ask the disk
        reason = error if isinstance(error, OSError) else _write_error(directory)
        shutil.rmtree(directory / tag, ignore_errors=True)
        if reason is None:
            raise
        raise InputError(
            f"{directory / tag}: the checkpoint cannot be written: {reason.strerror}; "
            f"{_what_is_kept(directory)}"
        ) from error


def _what_is_kept(directory: Path) -> str:
    progress = read_progress(directory)
    kept = f"the one of step {progress.step} is kept" if progress else "there is none before it"
    return f"{kept}, --resume goes on"


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


def _checksums(directory: Path, names: Sequence[str]) -> dict[str, str]:
    """SHA-256 of files, "" where one is missing; the ranks share the work."""
    rank, num_ranks = torch.distributed.get_rank(), torch.distributed.get_world_size()
    own = {name: _durable_sha256(directory / name) for name in names[rank::num_ranks]}
    gathered: list[dict[str, str]] = [{}] * num_ranks
    torch.distributed.all_gather_object(gathered, own)
    return {name: checksum for own in gathered for name, checksum in own.items()}


def _durable_sha256(path: Path) -> str:
    """The file's checksum, once it is on the disk and not only in the system's memory."""
    if path.is_symlink() or not path.is_file():
        return ""
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return sha256(path)
