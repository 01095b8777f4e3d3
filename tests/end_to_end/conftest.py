import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from store_engine.training.log import read_log

ROOT = Path(__file__).parents[2]
TINY = ["--ds_config", "configs/zero3.json", "--config", "configs/tiny.toml", "train.threads=1"]


def _start(run_dir, *arguments):
    """Starts the main job on the tiny config in a process group of its own."""
    command = [sys.executable, "store_engine/train.py", *TINY, f"run_dir={run_dir}", *arguments]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env={**os.environ, "COLUMNS": "200"},
    )


def _train(run_dir, *arguments):
    """Runs the main job to its end and returns what it printed."""
    process = _start(run_dir, *arguments)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output[-3000:]
    return output


def _train_until_killed(run_dir, stage, step, *arguments, signum=signal.SIGKILL):
    """Sends the main job a signal as soon as `step` of `stage` is in its log."""
    process = _start(run_dir, *arguments)
    log = Path(run_dir) / "train_log.jsonl"
    while not any(e["stage"] == stage and e["step"] >= step for e in read_log(log)):
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.05)
            raise AssertionError(f"ended before step {step} of {stage}: {process.stdout.read()}")
    os.killpg(process.pid, signum)
    process.communicate(timeout=60)
    assert process.returncode == (-signum if signum == signal.SIGKILL else 0)


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
                _train(run_dir, *arguments)
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

    def run(*arguments, max_file_kib="unlimited"):
        command = [sys.executable, "store_engine/train.py", *TINY, *arguments]
        command = ["bash", "-c", f'ulimit -f {max_file_kib}; exec "$@"', "bash", *command]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
        assert done.returncode == 2, done.stderr[-3000:]
        return done.stderr

    return run
