"""Tables of a sweep from rows that are there."""

import json

import pytest

from benchmarks.tabulating import results_table
from benchmarks.tabulating.results_table import read_layout
from store_engine.errors import InputError

PLAN = """
[variants]
ours = []
theirs = []
[table]
parts = ["llm"]
[table.sections]
"All of it" = ["theirs", "ours", "never_run"]
"""


@pytest.fixture
def folder(result_row, tmp_path, monkeypatch):
    """A folder of rows, and of a plan for them."""
    (tmp_path / "mine.toml").write_text(PLAN)
    monkeypatch.setattr(results_table, "PLANS", tmp_path)
    rows = [result_row("ours", 0, 0.1), result_row("ours", 1, 0.12), result_row("theirs", 0, 0.08)]
    rows += [result_row("sasrec", 0, 0.09), result_row("ours", 2, 0.9, status="failed")]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return tmp_path


def test_a_table_has_baselines_variants_parts_and_others(folder):
    lines = results_table.results_table("mine", folder).splitlines()
    cells = [[cell.strip() for cell in line.replace("\\|", "!").split("|")[1:-1]] for line in lines]
    table = {line[0]: line[1:] for line in cells[2:-3] if line}
    assert list(table) == [
        "**Without training**", "co-visitation", "**All of it**", "theirs ! all", "ours ! all",
        "ours ! all: llm", "**Others**", "sasrec ! all",
    ]  # fmt: skip
    assert table["ours ! all"] == [
        ".1100 ± .0141", ".0550 ± .0071", ".0550 ± .0071", ".0275 ± .0035", ".2000", "2.0", "2",
    ]  # fmt: skip
    assert table["ours ! all: llm"][0] == ".0275 ± .0035"
    assert table["co-visitation"] == [".0500", ".0200", ".0500", ".0200", "", "", ""]
    assert table["theirs ! all"][0] == ".0800"
    assert len({len(line) for line in cells if line}) == 1


def test_a_table_says_what_it_stands_on(folder):
    text = results_table.results_table("mine", folder)
    for part in ("1,000 users", "data 1234", "a machine", "commit abc", "--table mine"):
        assert part in text


def test_nothing_measured_is_said(folder):
    assert results_table.results_table("mine", folder / "none") == "Not measured yet."


def test_a_layout_that_is_none_is_refused(tmp_path):
    (tmp_path / "x.toml").write_text('[table.sections]\na = "ours"\n')
    with pytest.raises(InputError, match="must be a list of names, got 'ours'"):
        read_layout(tmp_path / "x.toml", [])
