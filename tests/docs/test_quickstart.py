"""The quick start's own commands, in order, in one folder: a shop's csv to an answer over HTTP.

Each command is a process of its own, so what a later one finds survived a restart.
"""

import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "quickstart.md"
MOST_COMMANDS = 10
STEPS = ("shop_export", "prepare", "train", "recommend", "export", "generate_from_export")
STEPS += ("add-items", "recommend", "serve", "curl")  # what a newcomer wants, in this order


def _commands():
    blocks = re.findall(r"^```bash\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    return "".join(blocks).replace("\\\n", " ").strip().split("\n")


def _before_serve():
    return next(i for i, line in enumerate(_commands()) if "store-engine serve" in line)


@pytest.fixture(scope="module")
def walked(tmp_path_factory):
    """A folder in which all commands before the server have run, and what each printed."""
    pytest.importorskip("duckdb", reason="needs store-engine[prepare]")
    pytest.importorskip("transformers", reason="needs store-engine[export]")
    folder = tmp_path_factory.mktemp("newcomer")
    for name in ("configs", "examples", "store_engine"):
        (folder / name).symlink_to(ROOT / name)
    _script(folder / "bin" / "store-engine", f'"{sys.executable}" -m store_engine')
    _script(folder / "bin" / "python", f'"{sys.executable}"')
    paths = (folder / "bin", os.environ["PATH"])
    variables = os.environ | {
        "PATH": os.pathsep.join(map(str, paths)),
        "PYTHONPATH": str(ROOT),
        "COLUMNS": "120",
        "OMP_NUM_THREADS": "1",
    }
    printed = []
    for command in _commands()[: _before_serve()]:
        done = _bash(command, folder, variables)
        assert done.returncode == 0, f"{command}\n{(done.stdout + done.stderr)[-3000:]}"
        printed.append(done.stdout)
    return folder, variables, printed


def test_a_newcomer_needs_ten_commands():
    commands = _commands()
    assert len(commands) <= MOST_COMMANDS
    for step, command in zip(STEPS, commands, strict=True):
        assert step in command


@pytest.mark.slow
def test_the_commands_run_in_order(walked):
    folder, _, printed = walked
    assert (folder / "runs" / "shop" / "metrics.json").is_file()
    card = json.loads((folder / "shop" / "data" / "card.json").read_text())
    assert "ordered_at" in json.dumps(card)  # the time was found
    assert "N2" in printed[7]  # by another process than the one that added it
    assert len(printed[5].split()) == len(set(printed[5].split())) == 10


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs store-engine[serve]")
def test_the_server_answers(walked):
    folder, variables, _ = walked
    port = _free_port()
    serve, ask = (line.replace("8000", str(port)) for line in _commands()[-2:])
    serving = subprocess.Popen(
        ["bash", "-c", "exec " + serve.removesuffix("&")],
        cwd=folder, env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        done = _bash(ask, folder, variables)
        assert done.returncode == 0, done.stderr
        assert len(json.loads(done.stdout)["items"]) == 5
    finally:
        serving.send_signal(signal.SIGTERM)
        serving.wait(timeout=60)


def _bash(command, folder, variables):
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=folder, env=variables, capture_output=True, text=True, timeout=900,
    )  # fmt: skip


def _script(path, command):
    path.parent.mkdir(exist_ok=True)
    path.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
    path.chmod(0o755)


def _free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]
