"""Every script says in its first lines what it measures and how to run it."""

import ast

import pytest

import benchmarks
from benchmarks import ROOT

FOLDER = ROOT / "benchmarks"
SCRIPTS = sorted(path for path in FOLDER.glob("*.py") if path.stem != "__init__")
ROOMS = sorted(path.parent for path in FOLDER.glob("*/__init__.py"))


def docstring(path):
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_begins_with_what_it_measures_and_its_command(path):
    first, empty, command, *_ = docstring(path).splitlines()
    assert first.endswith(".") and not empty
    assert command.startswith(f"    python benchmarks/{path.name}")


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*/*.py")), ids=lambda path: path.stem)
def test_a_file_of_a_room_says_what_it_holds(path):
    assert path.stem == "__init__" or docstring(path).splitlines()[0].endswith(".")


def test_the_map_has_every_script_and_room():
    listed = {line.split()[0] for line in benchmarks.__doc__.splitlines() if "  " in line}
    assert listed == {path.name for path in SCRIPTS} | {f"{room.name}/" for room in ROOMS}
