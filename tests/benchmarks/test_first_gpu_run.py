import ast
import json
import os
import re
import subprocess
import sys

import pytest

from benchmarks import ROOT
from benchmarks.gpu_run.parts import PARTS
from benchmarks.measuring.harness import COLUMNS

SCRIPT = ROOT / "benchmarks" / "first_gpu_run.py"
FILES = [SCRIPT, ROOT / "benchmarks" / "__init__.py", *(SCRIPT.parent / "gpu_run").glob("*.py")]


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


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_only_torch_and_the_standard_library_are_imported(path):
    """The package may not import there: its core is built by a part."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module)
    others = {name for name in names if name.split(".")[0] not in sys.stdlib_module_names}
    assert all(
        name in ("torch", "benchmarks") or name.startswith("benchmarks.gpu_run.") for name in others
    ), others
