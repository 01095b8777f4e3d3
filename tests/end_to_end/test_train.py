"""The main job as a user starts it, on tiny.toml."""

import contextlib
import json
import signal
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

import store_engine.train as entry
from store_engine.config import Config
from store_engine.errors import InputError
from store_engine.sid.sid_table import SidTable
from store_engine.training.distributed.process_group import InterruptedTraining
from store_engine.training.distributed.progress import read_progress
from store_engine.training.log import read_log


def last_losses(run_dir):
    entries = read_log(run_dir / "train_log.jsonl")
    return {
        stage: [e["loss"] for e in entries if e["stage"] == stage][-1] for stage in stages(entries)
    }


def stages(entries):
    return list(dict.fromkeys(entry["stage"] for entry in entries))


@pytest.mark.slow
def test_a_run_is_complete_and_measured(tiny_run):
    metrics = json.loads((tiny_run / "metrics.json").read_text())
    assert metrics["protocol"] == "leave-one-out"
    assert metrics["invalid_items"] == metrics["missing_items"] == 0
    assert metrics["sid"]["num_unique_sids"] == metrics["num_items"] == 120
    assert metrics["metrics"]["recall@10"] > 1.5 * metrics["baselines"]["popularity"]["recall@10"]
    assert sum(b["num_users"] for b in metrics["buckets"].values()) == metrics["num_users"]
    names = {path.name for path in tiny_run.iterdir()}
    assert names >= {
        "run.json", "config.toml", "items.jsonl", "histories.npz", "text.model", "sids.npz",
        "tokenizer.safetensors", "model.safetensors", "trie.bin", "train_log.jsonl", "metrics.json",
    }  # fmt: skip
    assert not [name for name in names if name.endswith(".tmp")]
    for stage in ("tokenizer", "recommender"):
        position = read_progress(tiny_run / "checkpoints" / stage)
        assert position.step == metrics["train"][stage]["num_steps"]


@pytest.mark.slow
def test_both_stages_learn(tiny_run):
    entries = read_log(tiny_run / "train_log.jsonl")
    assert stages(entries) == ["tokenizer", "recommender"]
    for stage in stages(entries):
        losses = [entry["loss"] for entry in entries if entry["stage"] == stage]
        assert losses[-1] < 0.8 * losses[0], stage


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "first", "last"),
    [
        ("tokenizer", 6.322957515716553, 4.264669418334961),
        ("recommender", 2.5180416107177734, 1.5118736028671265),
    ],
)
def test_the_losses_of_tiny_are_golden(stage, first, last, tiny_run):
    """In float32. Sums in another order, on another processor, differ in the seventh digit."""
    losses = [e["loss"] for e in read_log(tiny_run / "train_log.jsonl") if e["stage"] == stage]
    assert losses[0] == pytest.approx(first, rel=1e-5)
    # 30 and 48 steps, each of which carries the differences on
    assert losses[-1] == pytest.approx(last, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "step"), [("tokenizer", 17), ("recommender", 23)], ids=str)
def test_killed_and_resumed_reaches_the_same_end(
    stage, step, tiny_run, tmp_path, train, train_until_killed
):
    run_dir = tmp_path / "run"
    train_until_killed(run_dir, stage, step)
    assert not (run_dir / "metrics.json").exists()
    train(run_dir, "--resume")

    entries = read_log(run_dir / "train_log.jsonl")
    assert [(e["stage"], e["step"]) for e in entries] == [
        (e["stage"], e["step"]) for e in read_log(tiny_run / "train_log.jsonl")
    ]
    assert last_losses(run_dir) == pytest.approx(last_losses(tiny_run), abs=1e-6)
    wanted = SidTable.load(tiny_run / "sids.npz")
    assert np.array_equal(SidTable.load(run_dir / "sids.npz").sids, wanted.sids)
    ours, theirs = (load_file(d / "model.safetensors") for d in (run_dir, tiny_run))
    assert all((ours[name] - theirs[name]).abs().max() < 1e-6 for name in theirs)


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_request_to_stop_saves_and_ends_well(signum, tmp_path, train_until_killed):
    run_dir = tmp_path / "run"
    train_until_killed(run_dir, "tokenizer", 3, signum=signum)
    last_step = read_log(run_dir / "train_log.jsonl")[-1]["step"]
    assert last_step < 30
    assert read_progress(run_dir / "checkpoints" / "tokenizer").step == last_step


@pytest.mark.slow
def test_resuming_a_finished_run_only_measures_it(copied_run, tiny_run, train):
    before = (copied_run / "model.safetensors").read_bytes()
    train(copied_run, "--resume")
    assert (copied_run / "model.safetensors").read_bytes() == before
    old, new = (json.loads((d / "metrics.json").read_text()) for d in (tiny_run, copied_run))
    assert new["metrics"] == old["metrics"]


@pytest.mark.slow
def test_bad_input_is_one_line_and_leaves_nothing(tmp_path, refused):
    (tmp_path / "items.csv").write_text("item_id,name\na,first\nb,second\n")
    (tmp_path / "interactions.csv").write_text("user_id,item_id,timestamp\nu,a,1\nu,b,2\nu,c,3\n")
    run_dir = tmp_path / "run"
    stderr = refused(
        f"run_dir={run_dir}", "data.name=files", f"data.path={tmp_path}",
        'data.text_fields=["name"]', "tokenizer.codebook_size=2",
    )  # fmt: skip
    error = [line for line in stderr.splitlines() if line.startswith("error:")]
    assert len(error) == 1
    assert "interactions.csv" in error[0]
    assert "'c'" in error[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["interactions.csv", "items.csv"]


@pytest.mark.slow
def test_a_run_is_never_overwritten_unasked(copied_run, refused):
    assert "--resume goes on with it" in refused(f"run_dir={copied_run}")
    stderr = refused(f"run_dir={copied_run}", "--resume", "recommender.lr=1e-4")
    assert "begun with recommender.lr = 0.005" in stderr
    assert Path(copied_run / "metrics.json").exists()


@pytest.mark.slow
def test_a_disk_that_takes_no_checkpoint_is_one_line(tmp_path, refused):
    """A limit on the size of files stands for the full disk: writes fail in the same places."""
    run_dir = tmp_path / "run"
    stderr = refused(f"run_dir={run_dir}", max_file_kib=300)
    (error,) = [line for line in stderr.splitlines() if line.startswith("error:")]
    assert "tokenizer-00000010: the checkpoint cannot be written: File too large" in error
    assert [path.name for path in (run_dir / "checkpoints" / "tokenizer").glob("tokenizer-*")] == []


@pytest.mark.parametrize(
    ("name", "error", "status", "message"),
    [
        ("load_config", PermissionError(13, "Permission denied", "/x"), 2, "/x: Permission denied"),
        ("load_config", PermissionError(13, "Permission denied"), 2, "c.toml: Permission denied"),
        ("load_config", InputError("no such key"), 2, "error: no such key"),
        ("begin_or_resume", OSError(28, "No space left on device"), 2, "No space left on device"),
        ("begin_or_resume", KeyboardInterrupt(), 130, "interrupted; --resume goes on"),
        ("train", FloatingPointError("the loss of step 3 is nan"), 1, "the loss of step 3 is nan"),
        ("train", InterruptedTraining("stopped after step 3"), 0, "stopped after step 3; --resume"),
    ],
    ids=["file", "place", "input", "disk", "Ctrl-C", "NaN", "stopped"],
)
def test_every_end_is_one_line_and_a_status(name, error, status, message, monkeypatch, capsys):
    def fail(*arguments):
        raise error

    for other in ("launched_rank", "load_config", "read_ds_config", "begin_or_resume", "train"):
        monkeypatch.setattr(entry, other, lambda *arguments: Config())
    monkeypatch.setattr(entry, "read_run_data", lambda *arguments: None)
    monkeypatch.setattr(entry, "launched_rank", lambda: 0)
    monkeypatch.setattr(entry, "process_group", contextlib.nullcontext)
    monkeypatch.setattr(entry, name, fail)
    assert entry.main(["--config", "c.toml", "--ds_config", "d.json"]) == status
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_an_error_of_ours_stays_an_error(monkeypatch):
    def fail(*arguments):
        raise OSError(9, "Bad file descriptor")

    monkeypatch.setattr(entry, "load_config", fail)
    with pytest.raises(OSError, match="Bad file descriptor"):
        entry.main(["--ds_config", "d.json"])
