import errno
import json
import os
from pathlib import Path

import pytest

from store_engine.errors import InputError
from store_engine.training.checkpoint import (
    Position,
    last_position,
    load_checkpoint,
    save_checkpoint,
    universal_config,
)

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


def position(step):
    return Position("tokenizer", step, num_ranks=1, zero_stage=3)


@pytest.fixture
def directory(tmp_path):
    directory = tmp_path / "checkpoints"
    save_checkpoint(FileEngine(10), directory, position(10))
    save_checkpoint(FileEngine(20), directory, position(20))
    return directory


def test_the_last_checkpoint_counts_and_the_one_before_is_gone(directory):
    assert last_position(directory) == position(20)
    engine = FileEngine()
    load_checkpoint(engine, directory)
    assert engine.value == 20
    assert [path.name for path in directory.iterdir() if path.is_dir()] == ["tokenizer-00000020"]


def test_a_checkpoint_that_was_not_finished_does_not_count(directory):
    (directory / "tokenizer-00000030").mkdir()
    (directory / "tokenizer-00000030" / "state").write_text("3")
    assert last_position(directory).step == 20


def test_no_checkpoint(tmp_path):
    assert last_position(tmp_path / "nowhere") is None
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
        last_position(directory)


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
        save_checkpoint(engine, directory, position(30))
    monkeypatch.undo()
    assert last_position(directory).step == 20
    assert sorted(path.name for path in directory.iterdir()) == [
        "latest.json",
        "tokenizer-00000020",
    ]
    load_checkpoint(FileEngine(), directory)


def test_an_error_that_is_not_the_disks_stays_what_it_is(directory):
    with pytest.raises(RuntimeError, match="a bug"):
        save_checkpoint(FullDiskEngine(RuntimeError("a bug")), directory, position(30))
    assert last_position(directory).step == 20


def test_leftovers_of_a_killed_write_do_not_enter_a_checkpoint(directory):
    leftover = directory / "tokenizer-00000030"
    leftover.mkdir()
    (leftover / "state_of_rank_1").write_text("3")
    save_checkpoint(FileEngine(30), directory, position(30))
    assert [path.name for path in leftover.iterdir()] == ["state"]


@pytest.mark.parametrize(
    ("zero_stage", "num_ranks", "is_universal"),
    [(3, 2, False), (3, 1, True), (0, 1, False)],
    ids=["as many ranks", "fewer ranks", "no ZeRO"],
)
def test_only_cut_state_is_put_together(zero_stage, num_ranks, is_universal):
    was = Position("tokenizer", 1, num_ranks=2, zero_stage=zero_stage)
    stated = {"checkpoint": {"use_node_local_storage": False}}
    config = universal_config(stated, was, num_ranks)
    assert config["checkpoint"].get("load_universal", False) is is_universal
    assert config["checkpoint"]["use_node_local_storage"] is False
