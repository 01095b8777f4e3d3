"""Running a program: its end, its request to stop, its last words; how a training is started."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from store_engine.experiments import trials
from store_engine.experiments.plan import Trial, Variant
from store_engine.experiments.trials import Launch, run_command, run_trial, train_command
from store_engine.train import parse_arguments

STUBBORN = """
import subprocess, sys, time
sleep = "import time; time.sleep(60)"
print(subprocess.Popen([sys.executable, "-c", sleep]).pid, flush=True)
time.sleep(60)
"""


@pytest.fixture
def trial(tmp_path):
    variant = Variant("a", "a", ("configs/tiny.toml",), ("recommender.lr=1e-3",))
    return Trial(variant, 3, "configs/zero0.json", "abc", tmp_path / 'a "b"' / "seed3-abc")


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(trials, "_POLL_S", 0.05)
    monkeypatch.setattr(trials, "_STOP_S", 4.0)


def program(text):
    return [sys.executable, "-c", text]


def test_a_program_runs_to_its_end(tmp_path):
    ticks = []
    with (tmp_path / "out").open("wb") as file:
        text = "import sys, time; print('x', flush=True); time.sleep(0.3); sys.exit(7)"
        assert run_command(program(text), file, lambda: ticks.append(1)) == 7
    assert (tmp_path / "out").read_text() == "x\n"
    assert ticks


def test_a_request_to_stop_ends_all_that_was_started(tmp_path):
    """As DeepSpeed's launcher does, the program does not pass the signal on."""
    out = tmp_path / "out"

    def interrupt():
        if out.read_text().endswith("\n"):
            raise KeyboardInterrupt

    with out.open("wb") as file, pytest.raises(KeyboardInterrupt):
        run_command(program(STUBBORN), file, interrupt)
    assert not _is_running(int(out.read_text()))


def _is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("print('warming up'); print('error: no such column'); print('exits'); exit(2)",
         "no such column (exit status 2)"),
        ("raise RuntimeError('out of luck')", "RuntimeError: out of luck (exit status 1)"),
        ("exit(3)", "said nothing (exit status 3)"),
        ("import os; os.kill(os.getpid(), 9)", "killed by signal 9"),
    ],
)  # fmt: skip
def test_a_failure_is_a_row_with_the_last_words(text, error, trial, monkeypatch):
    monkeypatch.setattr(trials, "train_command", lambda *_: program(text))
    row = run_trial(trial, Launch(1))
    assert (row["status"], row["error"]) == ("failed", error)
    assert (row["variant"], row["seed"], row["attempts"]) == ("a", 3, 1)
    assert run_trial(trial, Launch(1))["attempts"] == 2


def test_a_training_that_stopped_as_it_was_asked_stops_the_sweep(trial, monkeypatch):
    monkeypatch.setattr(trials, "train_command", lambda *_: program("print('saved')"))
    with pytest.raises(KeyboardInterrupt):
        run_trial(trial, Launch(1))


@pytest.mark.parametrize("num_ranks", [None, 1, 2])
def test_a_training_is_started_as_make_train_starts_it(num_ranks, trial):
    command = train_command(trial, Launch(num_ranks, "/the data"))
    script = next(i for i, part in enumerate(command) if part.endswith("store_engine/train.py"))
    assert ("deepspeed.launcher.runner" in command[:script]) == (num_ranks != 1)
    assert ("--num_accelerators" in command[:script]) == (num_ranks == 2)
    args = parse_arguments(command[script + 1 :])
    assert args.ds_config == "configs/zero0.json"
    assert args.resume
    assert not args.overwrite
    assert args.overrides[-1] == 'data.path="/the data"'
    assert args.overrides[1:3] == ["recommender.lr=1e-3", "train.seed=3"]


def test_sigterm_interrupts_a_sweep():
    from store_engine.experiments.sweep import _stopped_by_sigterm

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), _stopped_by_sigterm():
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM)).start()
        time.sleep(5)
    assert signal.getsignal(signal.SIGTERM) == before


def test_what_is_started_is_this_package(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    with (tmp_path / "out").open("wb") as file:
        text = "import store_engine; print(store_engine.__file__)"
        assert run_command(program(text), file, lambda: None) == 0
    assert (tmp_path / "out").read_text() == f"{trials.store_engine.__file__}\n"
