import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import first_gpu_run
from benchmarks.decoding.cases import DEFAULT_CASES, MORE_CASES
from benchmarks.first_gpu_run import (
    PARTS,
    PREDICTIONS,
    Part,
    Prediction,
    Run,
    check_prediction,
    judge,
)
from benchmarks.measuring.harness import COLUMNS
from benchmarks.ops.cases import all_cases
from benchmarks.training.task import MODELS
from store_engine.config import load_config

SCRIPT = Path(first_gpu_run.__file__)


@pytest.fixture(scope="module")
def dry_run(tmp_path_factory):
    out = tmp_path_factory.mktemp("gpu")
    command = [sys.executable, str(SCRIPT), "--out", str(out), "--dry-run"]
    env = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    return out, done


@pytest.mark.slow
def test_a_dry_run_does_every_part_or_says_why_not(dry_run):
    out, done = dry_run
    assert done.returncode == 0, done.stdout + done.stderr
    parts = json.loads((out / "summary.json").read_text())["parts"]
    assert [part["part"] for part in parts] == [part.name for part in PARTS]
    for result, part in zip(parts, PARTS, strict=True):
        assert result["status"] in ("ok", "skipped"), result
        assert (result["status"] == "skipped") == bool(result["reason"]), result
        if part.dry_command and not part.needs:
            assert result["status"] == "ok", result


@pytest.mark.slow
def test_a_dry_run_writes_rows_and_logs(dry_run):
    out, done = dry_run
    parts = json.loads((out / "summary.json").read_text())["parts"]
    for result in parts:
        assert (out / f"{result['part']}.log").exists() == (result["status"] == "ok")
    files = {path.stem: path.read_text().splitlines() for path in out.glob("*.csv")}
    assert set(files) == {
        *("decode_small", "decode_smollm2", "text_loss", "decode_kernels"),
        *("search_profile", "train_bench"),
    }
    for header, *rows in files.values():
        assert header == ",".join(COLUMNS)
        assert rows
    for name in files:  # the device worked; in the training's child an op says that it is there
        assert re.search(r": [1-9]\d* launches| on pretended:0", (out / f"{name}.log").read_text())
    assert json.loads((out / "versions.json").read_text())["torch"]
    assert "| ours in chunks takes 3 to 5 ms | not measured |  |" in done.stdout


def test_every_part_names_files_and_settings_there_are():
    for part in PARTS:
        for command in filter(None, (part.command, part.dry_command)):
            files = [
                arg for arg in command if arg.startswith(("tests/", "benchmarks/", "configs/"))
            ]
            assert all((first_gpu_run.ROOT / name).exists() for name in files), part.name
            if "--ds_config" in command:
                overrides = command[command.index("--overwrite") + 1 :]
                load_config(command[command.index("--config") + 1], list(overrides))


def test_every_prediction_is_of_a_part_that_runs():
    """A regex that no case has would stay "not measured" for ever."""
    every = {
        "kernels": [case.name for case in all_cases("cpu", has_decode=True)],
        "decode": [case.name for case in DEFAULT_CASES + MORE_CASES],
        "train": [f"{model},{dtype}" for model in MODELS for dtype in ("bfloat16",)],
    }
    every["search_profile"] = every["decode"]
    parts = {part.name: part for part in PARTS}
    for prediction in PREDICTIONS:
        command = parts[prediction.part].command
        names = every[Path(command[0]).stem]
        asked = command[command.index("--cases") + 1]
        found = [x for x in names if re.search(prediction.case, x) and re.search(asked, x)]
        assert found, prediction.what


def test_only_torch_and_the_standard_library_are_imported():
    lines = [line.split() for line in SCRIPT.read_text().splitlines()]
    modules = {words[1].split(".")[0] for words in lines if words[:1] in (["import"], ["from"])}
    assert modules - sys.stdlib_module_names == {"torch"}


def make_run(tmp_path, minutes=1.0):
    return Run(tmp_path, False, minutes, None)


def in_python(code, limit_s=30.0, **changes):
    return Part("part", ("-c", code), limit_s, on_gpu=False, **changes)


@pytest.mark.parametrize(
    ("part", "status", "reason"),
    [
        (in_python("print('fine')"), "ok", ""),
        (in_python("import no_such_module"), "skipped", "not installed: no_such_module"),
        (in_python("raise SystemExit('broken')"), "failed", "exit status 1: broken"),
        (in_python("import signal; signal.pause()", 0.5), "failed", "stopped at its limit of 0 s"),
        (in_python("", needs=("no_such", "json")), "skipped", "not installed: no_such"),
        (Part("part", ("-c", ""), 30), "skipped", "no CUDA device"),
    ],
    ids=["ok", "import", "status", "limit", "needs", "gpu"],
)
def test_what_becomes_of_a_part(tmp_path, monkeypatch, part, status, reason):
    monkeypatch.setattr(first_gpu_run.torch.cuda, "is_available", lambda: False)
    run = make_run(tmp_path)
    run.do(part)
    assert (run.results[0].status, run.results[0].reason) == (status, reason)
    assert json.loads((tmp_path / "summary.json").read_text())["parts"][0]["status"] == status


def test_a_part_takes_its_children_with_it(tmp_path, monkeypatch):
    """A launcher's workers must not go on beside the next part."""
    child = "import os, signal; print(os.getpid(), flush=True); signal.pause()"
    wait, log = subprocess.Popen.wait, tmp_path / "part.log"

    def wait_for_the_child(process, timeout=None):
        if timeout is None:
            return wait(process)
        while not log.read_text().rstrip().splitlines()[-1].isdigit():
            assert process.poll() is None
        raise subprocess.TimeoutExpired(process.args, timeout)

    monkeypatch.setattr(subprocess.Popen, "wait", wait_for_the_child)
    code = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {child!r}]).wait()"
    run = make_run(tmp_path)
    run.do(in_python(code))
    assert run.results[0].status == "failed"
    pid = log.read_text().split()[-1]
    stat = Path("/proc", pid, "stat")
    while stat.exists() and stat.read_text().rpartition(")")[2].split()[0] not in "ZX":
        pass  # it was killed, and is gone as soon as the system gets to it


def test_no_part_begins_when_the_time_is_up(tmp_path):
    run = make_run(tmp_path, minutes=0.01)
    run.do(in_python("print('late')"))
    assert run.results[0].reason == "no time is left"


@pytest.mark.parametrize(
    ("figures", "want"),
    [([], "not measured"), ([13.0], "held"), ([13.0, 17.0], "wrong"), ([11.9], "wrong")],
    ids=["none", "inside", "one-outside", "below"],
)
def test_a_prediction_is_held_against_the_rows(tmp_path, figures, want):
    rows = [f"kernels,ours,V=1,ms,ms,0,{x},0,1,f,m,t,c,d" for x in figures]
    rows += ["kernels,torch,V=1,ms,ms,0,1.0,0,1,f,m,t,c,d"]
    (tmp_path / "loss.csv").write_text("\n".join([",".join(COLUMNS), *rows]) + "\n")
    prediction = Prediction("it takes 12 to 16", "loss", "ours", "V=1$", "ms", 12, 16)
    assert check_prediction(tmp_path, prediction) == (want, figures)


def test_a_missing_module_is_no_failure():
    log = "Traceback\nModuleNotFoundError: No module named 'faiss'\n"
    assert judge("x", 1, log).reason == "not installed: faiss"
    assert judge("x", 1, "error: disk full").reason == "exit status 1: error: disk full"
