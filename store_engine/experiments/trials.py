"""Running a trial: the real training in a process of its own, resumed where it stands."""

import contextlib
import datetime
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import store_engine
from store_engine.errors import InputError
from store_engine.experiments.plan import Trial
from store_engine.experiments.provenance import commit, machine
from store_engine.experiments.rows import Effort, Row, failed_row, finished_row
from store_engine.files.json_file import parse_json, read_json, write_json
from store_engine.runs.run_directory import RunDirectory
from store_engine.training.log import VALIDATION, read_log

_SCRIPT = Path(store_engine.__file__).with_name("train.py")
_POLL_S = 2.0
_STOP_S = 120.0  # to save a checkpoint
_TAIL_BYTES = 1 << 16

Tick = Callable[[str], None]  # is told now and then where a training stands


class Launch(NamedTuple):
    """How trainings are started."""

    num_ranks: int | None = None  # None: as many as the launcher counts
    data: str | None = None  # folder of the data, instead of the config's
    device: str = "cpu"  # where it decodes to validate


def run_trial(trial: Trial, launch: Launch, tick: Tick = lambda _: None) -> Row:
    """Trains and measures, or goes on with what was begun, and returns the row.

    A training that ends badly is a row too.

    Args:
        trial: What to train.
        launch: How.
        tick: Is told where the training stands.

    Raises:
        KeyboardInterrupt: This process or the training was asked to stop; to run the trial again
            goes on with it.
    """
    trial.run_dir.parent.mkdir(parents=True, exist_ok=True)
    attempts = _Attempts(_beside(trial, ".attempts.json"))
    output = _beside(trial, ".out")
    if not _is_measured(trial.run_dir):
        with attempts.clocked(), output.open("ab") as file:
            status = run_command(
                train_command(trial, launch), file, lambda: tick(_standing(trial.run_dir))
            )
        if status != 0:
            return failed_row(trial, _reason(output, status), attempts.effort(launch))
        if not _is_measured(trial.run_dir):  # it saved a checkpoint and stopped, as it was asked
            raise KeyboardInterrupt
    tick("validation")
    try:
        return finished_row(trial, validate(trial, launch), attempts.effort(launch))
    except InputError as error:
        return failed_row(trial, str(error), attempts.effort(launch))


def train_command(trial: Trial, launch: Launch) -> list[str]:
    """Says how a training is started: as `make train` does, one rank without the launcher."""
    command = [sys.executable, str(_SCRIPT)]
    if launch.num_ranks != 1:
        command[1:1] = ["-m", "deepspeed.launcher.runner", "--master_port", _free_port()]
        if launch.num_ranks is not None:
            command[-1:-1] = ["--num_accelerators", str(launch.num_ranks)]
    command += ["--ds_config", trial.ds_config, "--resume"]  # begins a run that is not there
    for config in trial.variant.configs:
        command += ["--config", config]
    if launch.data is not None:
        command += ["--data", launch.data]
    return [*command, f"run_dir={json.dumps(str(trial.run_dir))}", *trial.overrides]


def validate(trial: Trial, launch: Launch) -> dict[str, float]:
    """Measures a finished run on all its validation users, whatever its training measured.

    Raises:
        InputError: It cannot be measured.
    """
    verb = ["evaluate", str(trial.run_dir), "--validation", "--json", "--device", launch.device]
    output = _beside(trial, ".validation.json")
    errors = _beside(trial, ".out")
    with output.open("wb") as file, errors.open("ab") as error_file:
        command = [sys.executable, "-m", "store_engine", *verb]
        status = run_command(command, file, lambda: None, error_file)
    if status != 0:
        raise InputError(_reason(errors, status))
    values: dict[str, float] = parse_json(output.read_bytes(), str(output))
    output.unlink()
    return values


def run_command(
    command: Sequence[str],
    output: IO[bytes],
    tick: Callable[[], None],
    errors: IO[bytes] | None = None,
) -> int:
    """Runs a program to its end and returns its exit status, -N after signal N.

    Args:
        command: The program and its arguments.
        output: Takes what it prints.
        tick: Is called every two seconds.
        errors: Takes its stderr; None: as `output`.

    Raises:
        KeyboardInterrupt: This process was asked to stop; the program was
            too, and has ended.
    """
    # in a group of its own, because DeepSpeed's launcher does not pass a signal on to its ranks
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT if errors is None else errors,
        start_new_session=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, _python_path()))},
    )
    try:
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return child.wait(_POLL_S)
            tick()
    except BaseException:
        _stop(child)
        raise


def _python_path() -> tuple[str, str]:
    """This package first: another one may be installed, and a row states this one's commit."""
    return str(_SCRIPT.parents[1]), os.environ.get("PYTHONPATH", "")


def _stop(child: "subprocess.Popen[bytes]") -> None:
    """Asks a program and all that it started to stop, and ends what has not after a while."""
    try:
        os.killpg(child.pid, signal.SIGTERM)
        child.wait(_STOP_S)
        until = time.monotonic() + _STOP_S / 4
        while time.monotonic() < until:  # the ranks may outlive the launcher, to save
            os.killpg(child.pid, 0)
            time.sleep(0.1)
    except ProcessLookupError:
        return
    except (subprocess.TimeoutExpired, KeyboardInterrupt):  # too slow, or Ctrl-C a second time
        pass
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


class _Attempts:
    """How often a trial was started, and how long each attempt took; kept in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._list: list[dict[str, Any]] = []
        with contextlib.suppress(InputError):  # none yet; only the clock is lost if it is damaged
            self._list = list(read_json(path)["attempts"])

    @contextlib.contextmanager
    def clocked(self) -> Iterator[None]:
        """Counts the block as an attempt, also if it raises."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        self._list.append({"began": now, "commit": commit(), "minutes": 0.0})
        write_json(self._path, {"attempts": self._list})
        began = time.perf_counter()
        try:
            yield
        finally:
            self._list[-1]["minutes"] = (time.perf_counter() - began) / 60
            write_json(self._path, {"attempts": self._list})

    def effort(self, launch: Launch) -> Effort:
        """All attempts together."""
        minutes = sum(attempt["minutes"] for attempt in self._list)
        commits = " ".join(dict.fromkeys(attempt["commit"] for attempt in self._list)) or commit()
        hardware = machine(launch.device)
        return Effort(minutes, len(self._list), commits, hardware, launch.num_ranks)


def _is_measured(run_dir: Path) -> bool:
    if not (run_dir / "run.json").exists():
        return False
    run = RunDirectory.open(run_dir)
    return run.is_complete(run.model_weights) and run.is_complete(run.metrics)


def _standing(run_dir: Path) -> str:
    """Where a training stands, by its log."""
    entries = read_log(run_dir / "train_log.jsonl")
    if not entries:
        return "reading the data"
    text = f"{entries[-1]['stage']} {entries[-1]['step']}"
    measured = [entry[VALIDATION] for entry in entries if VALIDATION in entry]
    return f"{text}, {VALIDATION} {measured[-1]:.4f}" if measured else text


def _reason(output: Path, status: int) -> str:
    """The last line that tells why a program ended badly."""
    if status < 0:
        return f"killed by signal {-status}"
    with output.open("rb") as file:
        file.seek(max(0, output.stat().st_size - _TAIL_BYTES))
        lines = [line.strip() for line in file.read().decode("utf-8", "replace").splitlines()]
    lines = [line for line in lines if line]
    told = [line for line in lines if line.startswith("error:")] or lines or ["said nothing"]
    return f"{told[-1].removeprefix('error:').strip()[:300]} (exit status {status})"


def _beside(trial: Trial, ending: str) -> Path:
    """A file of ours beside the run directory, which holds nothing but the run."""
    return trial.run_dir.with_name(trial.run_dir.name + ending)


def _free_port() -> str:
    """A port that nobody uses: two sweeps may go on at once."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])
