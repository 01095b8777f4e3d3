import errno
import json
import os
from pathlib import Path

import pytest
import torch

from store_engine.errors import InputError
from store_engine.training.distributed.checkpoint import (
    _tensors_only,
    load_checkpoint,
    read_best_weights,
    save_best_weights,
    save_checkpoint,
    universal_config,
)
from store_engine.training.distributed.progress import Best, TrainProgress, read_progress

pytestmark = pytest.mark.usefixtures("process_group")


class FileEngine:
    """Writes and reads one number, where DeepSpeed's engine writes tensors."""

    def __init__(self, value=0):
        self.value = value

    def save_checkpoint(self, directory, tag, save_latest):
        folder = Path(directory) / tag
        folder.mkdir(parents=True)
        (folder / "state").write_text(str(self.value))

    def load_universal_checkpoint(self):
        return False

    def load_checkpoint(self, directory, tag):
        self.value = int((Path(directory) / tag / "state").read_text())


def progress(step, best=None):
    return TrainProgress("tokenizer", step, num_ranks=1, zero_stage=3, best=best)


@pytest.fixture
def directory(tmp_path):
    directory = tmp_path / "checkpoints"
    save_checkpoint(FileEngine(10), directory, progress(10))
    save_checkpoint(FileEngine(20), directory, progress(20))
    return directory


def test_the_last_checkpoint_counts_and_the_one_before_is_gone(directory):
    assert read_progress(directory) == progress(20)
    engine = FileEngine()
    load_checkpoint(engine, directory)
    assert engine.value == 20
    assert [path.name for path in directory.iterdir() if path.is_dir()] == ["tokenizer-00000020"]


def test_a_checkpoint_that_was_not_finished_does_not_count(directory):
    (directory / "tokenizer-00000030").mkdir()
    (directory / "tokenizer-00000030" / "state").write_text("3")
    assert read_progress(directory).step == 20


def test_no_checkpoint(tmp_path):
    assert read_progress(tmp_path / "nowhere") is None
    with pytest.raises(InputError, match="holds no checkpoint"):
        load_checkpoint(FileEngine(), tmp_path / "nowhere")


@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_damage_is_refused(damage, directory):
    state = directory / "tokenizer-00000020" / "state"
    state.write_text("21") if damage == "changed" else state.unlink()
    with pytest.raises(InputError, match="state: missing or damaged"):
        load_checkpoint(FileEngine(), directory)


@pytest.mark.parametrize("text", ["{", json.dumps({"stage": "tokenizer"})], ids=["json", "keys"])
def test_a_damaged_manifest_is_refused(text, directory):
    (directory / "latest.json").write_text(text)
    with pytest.raises(InputError, match=r"latest\.json"):
        read_progress(directory)


def test_a_file_that_is_not_listed_is_refused(directory):
    (directory / "tokenizer-00000020" / "more").write_text("?")
    with pytest.raises(InputError, match="more: not part of the checkpoint"):
        load_checkpoint(FileEngine(), directory)


def test_a_link_in_the_place_of_a_file_is_refused(directory, tmp_path):
    state = directory / "tokenizer-00000020" / "state"
    elsewhere = state.rename(tmp_path / "state")
    state.symlink_to(elsewhere)
    with pytest.raises(InputError, match="state: must be a regular file"):
        load_checkpoint(FileEngine(), directory)


class Evil:
    """What a foreign checkpoint could hold: code that runs when it is read."""

    def __reduce__(self):
        return os.mkdir, ("was_here",)


def test_a_checkpoint_runs_no_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state": Evil()}, "evil.pt")
    torch.save({"state": torch.ones(2), "step": 3}, "good.pt")
    with pytest.raises(InputError, match="holds objects"), _tensors_only(tmp_path):
        torch.load("evil.pt", weights_only=False)  # as DeepSpeed asks for it
    assert not (tmp_path / "was_here").exists()
    with _tensors_only(tmp_path):
        assert torch.load("good.pt", weights_only=False)["step"] == 3
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


def test_the_best_weights_belong_to_the_checkpoint(directory):
    for step in (22, 24):
        save_best_weights({"w": torch.full((2,), float(step))}, directory, step)
    # a kill before the next checkpoint: the one before names neither, and stays whole
    load_checkpoint(FileEngine(), directory)
    save_checkpoint(FileEngine(30), directory, progress(30, Best(24, 0.5, 1)))
    assert not (directory / "best-00000022.safetensors").exists()
    assert read_best_weights(directory, 24)["w"].tolist() == [24, 24]
    load_checkpoint(FileEngine(), directory)
    (directory / "best-00000024.safetensors").unlink()
    with pytest.raises(InputError, match=r"best-00000024\.safetensors: missing or damaged"):
        load_checkpoint(FileEngine(), directory)


class FullDiskEngine(FileEngine):
    """Fails in the middle of a write, as torch's writer (no errno) or Python's does."""

    def __init__(self, error):
        super().__init__(30)
        self.error = error

    def save_checkpoint(self, directory, tag, save_latest):
        super().save_checkpoint(directory, tag, save_latest)
        raise self.error


@pytest.mark.parametrize("writer", ["torch", "python"])
def test_a_full_disk_keeps_the_checkpoint_before(writer, directory, monkeypatch):
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def no_room(descriptor):
        raise full

    monkeypatch.setattr(os, "fsync", no_room)
    engine = FullDiskEngine(full if writer == "python" else RuntimeError("file write failed"))
    with pytest.raises(InputError, match=r"No space left on device; the one of step 20 is kept"):
        save_checkpoint(engine, directory, progress(30))
    monkeypatch.undo()
    assert read_progress(directory).step == 20
    assert sorted(path.name for path in directory.iterdir()) == [
        "latest.json",
        "tokenizer-00000020",
    ]
    load_checkpoint(FileEngine(), directory)


def test_an_error_that_is_not_the_disks_stays_what_it_is(directory):
    with pytest.raises(RuntimeError, match="a bug"):
        save_checkpoint(FullDiskEngine(RuntimeError("a bug")), directory, progress(30))
    assert read_progress(directory).step == 20


def test_leftovers_of_a_killed_write_do_not_enter_a_checkpoint(directory):
    leftover = directory / "tokenizer-00000030"
    leftover.mkdir()
    (leftover / "state_of_rank_1").write_text("3")
    save_checkpoint(FileEngine(30), directory, progress(30))
    assert [path.name for path in leftover.iterdir()] == ["state"]


@pytest.mark.parametrize(
    ("zero_stage", "num_ranks", "is_universal"),
    [(3, 2, False), (3, 1, True), (0, 1, False)],
    ids=["as many ranks", "fewer ranks", "no ZeRO"],
)
def test_only_cut_state_is_put_together(zero_stage, num_ranks, is_universal):
    was = TrainProgress("tokenizer", 1, num_ranks=2, zero_stage=zero_stage)
    stated = {"checkpoint": {"use_node_local_storage": False}}
    config = universal_config(stated, was, num_ranks)
    assert config["checkpoint"].get("load_universal", False) is is_universal
    assert config["checkpoint"]["use_node_local_storage"] is False
