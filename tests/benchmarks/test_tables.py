import os
import subprocess
import sys

import pytest

from benchmarks import ROOT
from benchmarks.tables import PAGES, TABLES, fill


@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_what_make_tables_writes(page):
    text = (ROOT / page).read_text()
    assert fill(text) == text, "run `make tables`"


def test_the_pages_have_every_table():
    text = "".join((ROOT / page).read_text() for page in PAGES)
    names = [name for name in TABLES if name != "results/tiny"]  # nobody's result
    assert [f"<!-- table:{name} -->" in text for name in names] == [True] * len(names)


def test_make_knows_the_command():
    env = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    done = subprocess.run(
        ["make", "--dry-run", "tables"], cwd=ROOT, env=env, capture_output=True, text=True
    )
    assert "python benchmarks/tables.py" in done.stdout, done.stderr


@pytest.mark.parametrize("name", sorted(TABLES.keys() - {"roofline"}))  # it is computed
def test_what_was_never_measured_is_said(tmp_path, name):
    assert TABLES[name](tmp_path) == "Not measured yet."


def test_only_the_tables_change(tmp_path):
    text = "before\n<!-- table:decode -->\nold\n<!-- /table -->\nafter\n"
    want = "before\n<!-- table:decode -->\nNot measured yet.\n<!-- /table -->\nafter\n"
    assert fill(text, tmp_path) == want
    assert fill(want, tmp_path) == want


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!-- table:decod -->\n<!-- /table -->", "no table 'decod', there are decode, trie"),
        ("<!-- table:decode -->\n", "needs a <!-- /table -->"),
        ("<!-- /table -->\n", "needs a <!-- /table -->"),
    ],
    ids=["unknown", "no-end", "no-begin"],
)
def test_a_marker_that_is_wrong_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        fill(text)


def test_check_says_whether_a_page_would_change():
    command = [sys.executable, str(ROOT / "benchmarks" / "tables.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "all is as it would be written\n")
