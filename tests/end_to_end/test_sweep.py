"""A sweep with real trainings: stopped, gone on with, measured on validation users."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from store_engine.evaluation.evaluate_run import evaluate_run, validate_run
from store_engine.experiments.rows import read_rows
from store_engine.training.log import read_log

ROOT = Path(__file__).parents[2]


@pytest.fixture
def sweep(tmp_path):
    """sweep(*arguments) starts one in the checkout."""
    plan = tmp_path / "plan.toml"
    plan.write_text(
        f'configs = ["configs/tiny.toml"]\nds_config = "configs/zero3.json"\n'
        f'folder = "{tmp_path}/runs"\noverrides = ["train.threads=1"]\n'
        f'[variants]\nbase = []\nfails = ["tokenizer.codebook_size=1000"]\n'
    )

    def start(*arguments):
        command = [sys.executable, "-m", "store_engine", "sweep", str(plan), *arguments]
        command += ["--num_accelerators", "1"]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        return subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    return start


@pytest.mark.slow
def test_a_stopped_sweep_goes_on_and_ends_as_a_training_does(sweep, tiny_run, tmp_path):
    first = sweep()
    folder = tmp_path / "runs" / "base"
    while not any(len(read_log(path)) > 12 for path in folder.glob("*/train_log.jsonl")):
        assert first.poll() is None, first.communicate()
        time.sleep(0.1)
    first.send_signal(signal.SIGTERM)
    assert first.wait(60) == 130
    assert read_rows(tmp_path / "runs" / "rows.jsonl") == []

    second = sweep("--json")
    out, err = second.communicate(timeout=300)
    assert second.returncode == 0, err
    base, fails = json.loads(out)
    assert (base["status"], base["attempts"], base["dataset"]) == ("finished", 2, "synthetic")
    assert fails["status"] == "failed"
    assert "tokenizer.codebook_size" in fails["error"]
    (kept, _) = read_rows(tmp_path / "runs" / "rows.jsonl")
    wanted = evaluate_run(tiny_run)
    assert kept["test"]["seen_left_out"]["metrics"] == pytest.approx(
        wanted["protocols"]["seen_left_out"]["metrics"], abs=1e-6
    )
    assert base["validation"] == pytest.approx(validate_run(tiny_run), abs=1e-6)
    assert set(base["minutes"]) == {"tokenizer", "recommender", "total"}
