"""The scripts and the notebook of examples/ run from beginning to end on data that they make."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
BY_QUICKSTART = ("shop_export.py", "generate_from_export.py")  # test_quickstart.py runs them
SCRIPTS = sorted(path for path in EXAMPLES.glob("*.py") if path.name not in BY_QUICKSTART)


def test_the_pages_name_every_example():
    text = (EXAMPLES.parent / "docs" / "quickstart.md").read_text(encoding="utf-8")
    for path in EXAMPLES.iterdir():
        if path.suffix in (".py", ".ipynb"):
            assert f"examples/{path.name}" in text


@pytest.mark.slow
@pytest.mark.parametrize("script", [pytest.param(path, id=path.stem) for path in SCRIPTS])
def test_a_script(script, desk, desk_variables):
    # those that take a run are given the desk's; the others train one of their own
    arguments = [] if script.stem == "own_data" else ["runs/ml100k"]
    done = subprocess.run(
        [sys.executable, script, *arguments],
        cwd=desk, env=desk_variables, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
def test_the_notebook(tmp_path, desk_variables):
    # its cells as one program: what a kernel would run, without one
    cells = json.loads((EXAMPLES / "tour.ipynb").read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    program = tmp_path / "tour.py"
    program.write_text("\n".join(code), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, program],
        cwd=EXAMPLES, env=desk_variables, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Recall@10" in done.stdout and "report.html" in done.stdout


def test_the_notebook_is_kept_without_results():
    cells = json.loads((EXAMPLES / "tour.ipynb").read_text(encoding="utf-8"))["cells"]
    assert not any(cell.get("outputs") for cell in cells)
