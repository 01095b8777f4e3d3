import json
from pathlib import Path

import pytest

from store_engine.errors import InputError
from store_engine.training.checkpoint import (
    Position,
    last_position,
    load_checkpoint,
    save_checkpoint,
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

    def load_checkpoint(self, directory, tag):
        self.value = int((Path(directory) / tag / "state").read_text())


@pytest.fixture
def directory(tmp_path):
    directory = tmp_path / "checkpoints"
    save_checkpoint(FileEngine(10), directory, Position("tokenizer", 10, 1))
    save_checkpoint(FileEngine(20), directory, Position("tokenizer", 20, 1))
    return directory


def test_the_last_checkpoint_counts_and_the_one_before_is_gone(directory):
    assert last_position(directory) == Position("tokenizer", 20, 1)
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
