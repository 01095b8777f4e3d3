import contextlib
import dataclasses
import json
import os
import shutil

import numpy as np
import pytest
from engines import SIZES, catalog_of, random_model, random_sids
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from store_engine._C import ItemTrie
from store_engine.config import Config
from store_engine.data.histories import Histories
from store_engine.decoding.engine import Engine
from store_engine.errors import InputError
from store_engine.files import verification
from store_engine.model.weights import save_weights
from store_engine.runs import run_directory
from store_engine.runs.manifest import write_manifest
from store_engine.runs.run import Run, load_run
from store_engine.runs.run_directory import RunDirectory, RunOrigin, lock_to_replace
from store_engine.sid.sid_table import SidTable
from store_engine.text.text_vocabulary import TextVocabulary


def newer(run_dir):
    (run_dir / "run.json").write_text(json.dumps({"format": 3, "version": "9.1"}))


def no_json(run_dir):
    (run_dir / "run.json").write_text("{")


def no_format(run_dir):
    (run_dir / "run.json").write_text('{"version": "0.1.0"}')


def no_files(run_dir):
    (run_dir / "run.json").write_text('{"format": 2, "version": "0.1.0"}')


def no_run(run_dir):
    (run_dir / "run.json").unlink()


def no_folder(run_dir):
    shutil.rmtree(run_dir)


def unfinished(run_dir):
    (run_dir / "model.safetensors").unlink()


def unlisted_weights(run_dir):
    manifest = json.loads((run_dir / "run.json").read_text())
    del manifest["files"]["model.safetensors"]
    (run_dir / "run.json").write_text(json.dumps(manifest))


def truncated_weights(run_dir):
    path = run_dir / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-9])


def truncated_trie(run_dir):
    path = run_dir / "trie.bin"
    path.write_bytes(path.read_bytes()[:-9])


def no_trie(run_dir):
    (run_dir / "trie.bin").unlink()


def other_trie(run_dir):
    ItemTrie(np.zeros((60, 3), dtype=np.int32), [6, 5, 8]).save(run_dir / "trie.bin")


def cut_config(run_dir):
    path = run_dir / "config.toml"
    text = path.read_text()
    path.write_text(text[: text.index("[decoding]")])


def foreign_vocabulary(run_dir):
    (run_dir / "tokenizer.json").write_text("{}")


def fifo(run_dir):
    (run_dir / "items.jsonl").unlink()
    os.mkfifo(run_dir / "items.jsonl")


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (newer, "written by store_engine 9.1 in format 3; this version reads formats 1 and 2"),
        (no_json, r"run\.json: not valid JSON"),
        (no_format, r"run\.json: must state 'format' and 'version'"),
        (no_files, r"run\.json: damaged: KeyError: 'files'"),
        (no_run, "not a run directory"),
        (no_folder, "not a run directory"),
        (unfinished, "the run is not finished"),
        (unlisted_weights, "the run is not finished"),
        (truncated_weights, r"model\.safetensors: changed or damaged"),
        (truncated_trie, r"trie\.bin: changed or damaged"),
        (no_trie, r"trie\.bin: missing"),
        (other_trie, r"trie\.bin: changed or damaged"),
        (cut_config, r"config\.toml: changed or damaged"),
        (foreign_vocabulary, r"tokenizer\.json: not part of the run"),
        (fifo, r"items\.jsonl: not a regular file"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_refuses(run_dir, spoil, message):
    spoil(run_dir)
    with pytest.raises(InputError, match=message):
        Engine.load(run_dir, device="cpu")


PARTS = ("config", "items", "histories", "sids", "trie", "model_weights")


@given(part=st.sampled_from(PARTS), place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_one_flipped_bit_in_any_file_is_found(run_dir, part, place, bit):
    path = getattr(RunDirectory(run_dir), part)
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[int(place * len(whole))] ^= 1 << bit
    path.write_bytes(damaged)
    try:
        with pytest.raises(InputError, match=f"{path.name}: changed or damaged"):
            load_everything(load_run(run_dir))
    finally:
        path.write_bytes(whole)
    load_everything(load_run(run_dir))


def load_everything(run):
    return run.config, run.histories, run.vocabulary, run.trie, run.model


@pytest.mark.parametrize("name", ["sids", "trie", "model_weights", "items", "histories", "config"])
def test_a_file_of_another_run_is_refused(run_dir, name, tmp_path):
    """Whole in itself, even of the same size, but not what this run wrote."""
    path = getattr(RunDirectory(run_dir), name)
    other = bytearray(path.read_bytes())
    other[-1] ^= 1
    path.write_bytes(other)
    with pytest.raises(InputError, match=f"{path.name}: changed or damaged"):
        load_everything(load_run(run_dir))


def change_sids(run_dir, sizes=SIZES, reverse=False):
    """Other SIDs in a run, listed as the run's own."""
    with RunDirectory.open_to_write(run_dir) as run:
        table = SidTable.load(run.sids)
        ids = tuple(reversed(table.item_ids)) if reverse else table.item_ids
        with run.writing(run.sids):
            SidTable(table.sids[::-1].copy(), sizes, ids).save(run.sids)


@pytest.mark.parametrize("part", ["trie", "model"])
def test_what_was_made_from_other_sids_is_refused(run_dir, part):
    change_sids(run_dir)
    with pytest.raises(InputError, match=r"was made from another .*sids\.npz"):
        getattr(load_run(run_dir), part)


def test_parts_that_do_not_fit_each_other_are_refused(run_dir):
    change_sids(run_dir, reverse=True)
    with pytest.raises(InputError, match=r"sids\.npz: lists other items than items\.jsonl"):
        _ = load_run(run_dir).sid_table
    change_sids(run_dir, sizes=(6, 5, 9), reverse=True)
    with RunDirectory.open_to_write(run_dir) as run, run.writing(run.trie, run.model_weights):
        pass
    with pytest.raises(InputError, match=r"trie\.bin: holds other SIDs than sids\.npz"):
        _ = load_run(run_dir).trie
    with pytest.raises(InputError, match=r"tensor 'code_embedding\.weight' must be"):
        _ = load_run(run_dir).model


@pytest.mark.parametrize(
    "name", ["../outside", "/etc/passwd", "a/../b", ".", "a//b", "./a", ""], ids=ascii
)
def test_a_manifest_names_files_of_the_run_alone(run_dir, name):
    manifest = json.loads((run_dir / "run.json").read_text())
    manifest["files"][name] = {"bytes": 0, "sha256": "0" * 64}
    (run_dir / "run.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=r"run\.json: damaged"):
        RunDirectory.open(run_dir)


@pytest.mark.parametrize(
    "entry",
    [
        {"bytes": -1, "sha256": "0" * 64},
        {"bytes": 0, "sha256": "xyz"},
        {"bytes": "0", "sha256": "0" * 64},
        {"bytes": 0},
        {"bytes": 0, "sha256": "0" * 64, "made_from": []},
        {"bytes": 0, "sha256": "0" * 64, "made_from": {"a": 1}},
        [],
    ],
    ids=str,
)
def test_a_damaged_entry_is_refused(run_dir, entry):
    manifest = json.loads((run_dir / "run.json").read_text())
    manifest["files"]["x"] = entry
    (run_dir / "run.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=r"run\.json: damaged"):
        RunDirectory.open(run_dir)


def test_a_large_file_is_verified_once(run_dir, monkeypatch):
    monkeypatch.setattr(verification, "_LARGE", 100)
    monkeypatch.setattr(verification, "_SETTLED_NS", -1)
    read = []
    sha256 = verification.sha256
    monkeypatch.setattr(verification, "sha256", lambda path: read.append(path.name) or sha256(path))
    load_everything(load_run(run_dir))
    assert "model.safetensors" in read
    read.clear()
    load_everything(load_run(run_dir))
    assert read == []
    load_everything(load_run(run_dir, verify=True))
    assert "model.safetensors" in read
    # a change that leaves size and time of change as they were still has another inode time
    path, status = run_dir / "model.safetensors", (run_dir / "model.safetensors").stat()
    with path.open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"!")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(InputError, match=r"model\.safetensors: changed or damaged"):
        _ = load_run(run_dir).model


@pytest.mark.parametrize("content", ["{", "[]", '{"model.safetensors": 3}', '{"x": []}'])
def test_what_is_remembered_wrongly_is_not_believed(run_dir, content, monkeypatch):
    monkeypatch.setattr(verification, "_LARGE", 100)
    (run_dir / ".verified.json").write_text(content)
    truncated_weights(run_dir)
    with pytest.raises(InputError, match=r"model\.safetensors: changed or damaged"):
        _ = load_run(run_dir).model


def test_parts_are_loaded_when_they_are_asked_for(run_dir):
    truncated_weights(run_dir)
    run = load_run(run_dir)
    assert run.catalog.num_items == 60
    assert run.dataset == "fixture"
    assert run.histories.num_events == 60
    assert run.catalog is run.catalog
    assert not run.has_scoring
    with pytest.raises(InputError, match=r"model\.safetensors: changed or damaged"):
        _ = run.model


def test_only_the_holder_of_the_lock_writes(run_dir):
    run = RunDirectory.open(run_dir)
    with pytest.raises(ValueError, match="holds the lock"), run.writing(run.sids):
        pass
    with pytest.raises(ValueError, match="holds the lock"):
        run.write_config(run.read_config())
    with (
        RunDirectory.open_to_write(run_dir),
        pytest.raises(InputError, match=rf"in use by process {os.getpid()} on "),
    ):
        RunDirectory.open_to_write(run_dir)
    # it is free again, and reading never needs it
    with RunDirectory.open_to_write(run_dir):
        load_everything(load_run(run_dir))


def test_temporary_files_of_the_dead_are_removed(run_dir):
    leftover = run_dir / f".{'0' * 16}.tmp"
    leftover.write_bytes(b"half")
    (run_dir / ".mine.tmp").write_bytes(b"mine")
    with RunDirectory.open_to_write(run_dir):
        assert not leftover.exists()
        assert (run_dir / ".mine.tmp").exists()


@pytest.mark.parametrize("name", ["notes.txt", "exported", "items.csv", ".hidden"])
def test_what_is_not_the_runs_is_never_overwritten(run_dir, name):
    (run_dir / name).mkdir()
    with pytest.raises(InputError, match=f"will not be overwritten: {name} is not part of a run"):
        lock_to_replace(run_dir)


def test_an_unfinished_run_has_some_parts(run_dir):
    unfinished(run_dir)
    run = Run(RunDirectory.open(run_dir))
    assert run.sid_table.sids.shape == (60, 3)
    with pytest.raises(InputError, match=r"model\.safetensors: missing"):
        _ = run.model


def test_a_file_is_part_of_the_run_once_it_is_written(run_dir):
    with RunDirectory.open_to_write(run_dir) as run:
        with pytest.raises(OSError, match="disk full"), run.writing(run.trie):
            raise OSError("disk full")
        assert not run.is_complete(run.trie)
        with run.writing(run.trie):
            assert not run.is_complete(run.trie)
        assert run.is_complete(run.trie)


def test_a_config_whose_replacement_was_killed_is_the_old_or_the_new_one(run_dir, monkeypatch):
    def change(width):
        with RunDirectory.open_to_write(run_dir) as run:
            config = run.read_config()
            decoding = dataclasses.replace(config.decoding, beam_width=width)
            run.write_config(dataclasses.replace(config, decoding=decoding))

    def width():
        return RunDirectory.open(run_dir).read_config().decoding.beam_width

    change(31)
    for writes in (1, 2):
        left = [writes]

        def write(path, manifest, left=left):
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            write_manifest(path, manifest)

        with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
            patch.setattr(run_directory, "write_manifest", write)
            change(40 + writes)
        assert width() == 40 + writes
        change(50 + writes)
        assert width() == 50 + writes


def other_run(root):
    """A whole run of other items, of the same sizes."""
    model = random_model(text_vocab_size=300)

    def write_data(paths):
        catalog_of(60).save(paths.items)
        TextVocabulary.train(catalog_of(60).fields["title"], vocab_size=300).save(paths.root)
        rows = np.arange(60, dtype=np.int32)[::-1].copy()
        Histories(("u", "v"), rows, np.array([0, 20, 60])).save(paths.histories)

    lock = lock_to_replace(root) if root.exists() else None
    config = load_run(root).config if lock else Config()
    with RunDirectory.create(root, RunOrigin(config, "other"), write_data, lock) as run:
        sids = random_sids(60, seed=1)
        with run.writing(run.sids):
            SidTable(sids, SIZES, catalog_of(60).item_ids).save(run.sids)
        with run.writing(run.trie, run.model_weights):
            ItemTrie(sids, list(SIZES)).save(str(run.trie))
            save_weights(model.state_dict(), run.model_weights)


def test_parts_of_two_runs_are_never_mixed(run_dir):
    run = load_run(run_dir)
    assert run.catalog.num_items == 60
    other_run(run_dir)
    for part in ("histories", "sid_table", "trie", "model"):
        with pytest.raises(InputError, match=r"(changed or damaged|was made from another)"):
            getattr(run, part)
    assert load_everything(load_run(run_dir))


def test_a_run_that_is_replaced_while_it_is_read_is_refused(run_dir, monkeypatch):
    run, load = load_run(run_dir), SidTable.load

    def replace_and_load(path):
        other_run(run_dir)
        return load(path)

    monkeypatch.setattr(SidTable, "load", replace_and_load)
    with pytest.raises(InputError, match=r"sids\.npz: was replaced while it was read"):
        _ = run.sid_table


@pytest.mark.parametrize("name", [f"{'0' * 16}.tmp", "model.safetensors.123.tmp"])
def test_leftovers_of_the_dead_are_overwritten(run_dir, name):
    (run_dir / (f".{name}" if name[0] == "0" else name)).write_bytes(b"half")
    lock_to_replace(run_dir).release()
