import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from forks import Fork

from store_engine.training.log import read_log

ROOT = Path(__file__).parents[2]
SCRIPT = "store_engine/train.py"
TINY = ["--ds_config", "configs/zero3.json", "--config", "configs/tiny.toml", "train.threads=1"]


def _train(run_dir, *arguments):
    """Runs the main job to its end and returns what it printed."""
    job = Fork(SCRIPT, *TINY, f"run_dir={run_dir}", *arguments, variables={"COLUMNS": "200"})
    assert job.wait() == 0, (job.stdout + job.stderr)[-3000:]
    return job.stdout


def _train_until_killed(run_dir, stage, step, *arguments, signum=signal.SIGKILL):
    """Sends the main job a signal as soon as `step` of `stage` is in its log."""
    job = Fork(SCRIPT, *TINY, f"run_dir={run_dir}", *arguments)
    log = Path(run_dir) / "train_log.jsonl"
    while not any(e["stage"] == stage and e["step"] >= step for e in read_log(log)):
        assert job.status is None, f"ended before step {step} of {stage}: {job.stderr}"
        time.sleep(0.05)
    job.kill(signum)
    assert job.wait(60) == (-signum if signum == signal.SIGKILL else 0)


@pytest.fixture(scope="session")
def train_once(tmp_path_factory):
    """train_once(name, *arguments) is a finished run, made by whoever of the workers comes first.

    Read it only: all tests of the session share it.
    """
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # each worker has a folder of its own below this one
        folder = folder.parent

    def run(name, *arguments):
        run_dir = folder / "shared_runs" / name
        run_dir.parent.mkdir(exist_ok=True)
        with run_dir.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (run_dir / "metrics.json").exists():
                # as a user does; all other trainings of these tests are forks
                command = [sys.executable, SCRIPT, *TINY, f"run_dir={run_dir}", *arguments]
                done = subprocess.run(
                    command, cwd=ROOT, capture_output=True, text=True, timeout=300
                )
                assert done.returncode == 0, done.stderr[-3000:]
        return run_dir

    return run


@pytest.fixture(scope="session")
def tiny_run(train_once):
    """A finished run of tiny.toml; read it only."""
    return train_once("tiny")


@pytest.fixture
def copied_run(tiny_run, tmp_path):
    """A copy of the finished run, to be changed."""
    return shutil.copytree(tiny_run, tmp_path / "run")


@pytest.fixture
def train():
    """train(run_dir, *arguments) runs the main job to its end and returns what it printed."""
    return _train


@pytest.fixture
def train_until_killed():
    """train_until_killed(run_dir, stage, step, signum=SIGKILL) signals it when it gets there."""
    return _train_until_killed


@pytest.fixture
def refused():
    """refused(*arguments) -> what the main job prints on stderr when it exits with status 2.

    max_file_kib: No file may grow beyond.
    """

    def run(*arguments, max_file_kib=None):
        job = Fork(SCRIPT, *TINY, *arguments, max_file_kib=max_file_kib)
        assert job.wait(120) == 2, job.stderr[-3000:]
        return job.stderr

    return run
