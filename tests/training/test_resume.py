"""Resumed = uninterrupted, bit for bit, with dropout: in a fresh process, for every feature."""

import json

import pytest
import torch
from forks import run_script

from store_engine.model.weights import read_weights
from store_engine.training.distributed.progress import read_progress
from store_engine.training.log import VALIDATION, read_log

CASES = [
    "zero3", "zero0_bf16_wsd", "zero1_bf16", "zero2_recomputed", "zero3_bf16", "validated", "items",
]  # fmt: skip
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The runs that tests/training/resume.py leaves."""
    folder = tmp_path_factory.mktemp("resume")
    for part in ("begin", "go_on"):
        run_script("tests/training/resume.py", folder, part)
        stopped = [read_progress(folder / c / "resumed/checkpoints/recommender") for c in CASES]
        if part == "begin":
            assert [progress.step for progress in stopped] == [5] * len(CASES)
    return folder


def entries(run_dir):
    """What train_log.jsonl says, but for what the clock decides."""
    clock = ("tokens_per_s", "share_of_peak", "wall_s")
    log = read_log(run_dir / "train_log.jsonl")
    return [{name: x for name, x in entry.items() if name not in clock} for entry in log]


@pytest.mark.parametrize("case", CASES)
def test_a_resumed_training_is_the_same_to_the_last_bit(case, folder):
    whole, resumed = folder / case / "whole", folder / case / "resumed"
    assert len(entries(whole)) > 8
    assert entries(resumed) == entries(whole)
    ours, theirs = (read_weights(d / "model.safetensors") for d in (resumed, whole))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    ours, theirs = (read_progress(d / "checkpoints/recommender") for d in (resumed, whole))
    assert ours == theirs


def test_the_best_weights_are_kept_and_patience_ends_the_stage(folder):
    run_dir = folder / "validated" / "whole"
    measured = {e["step"]: e[VALIDATION] for e in entries(run_dir) if VALIDATION in e}
    progress = read_progress(run_dir / "checkpoints/recommender")
    assert set(measured) >= set(range(2, progress.step + 1, 2))
    assert progress.best.score == max(measured.values()) == measured[progress.best.step]
    later = [step for step in measured if step > progress.best.step]
    assert progress.best.num_worse == len(later)
    assert json.loads((run_dir / "score.json").read_text()) == progress.best.score
    kept = [path.name for path in (run_dir / "checkpoints/recommender").glob("best-*")]
    assert kept == [f"best-{progress.best.step:08d}.safetensors"]
