"""Tables of results from rows that are there."""

import json
import os
from pathlib import Path

import pytest

from benchmarks import results, results_table
from benchmarks.results_table import read_layout
from store_engine.errors import InputError
from store_engine.experiments.rows import read_rows

PLAN = """
[variants]
ours = []
theirs = []
[table]
parts = ["llm"]
[table.sections]
"All of it" = ["theirs", "ours", "never_run"]
"""


def row(variant, seed, recall, **more):
    def rule(x):
        metrics = {"recall@10": x, "ndcg@10": x / 2}
        baselines = {"co_visitation": {"recall@10": 0.05, "ndcg@10": 0.02}}
        baselines["llm"] = {"recall@10": x / 4, "ndcg@10": x / 8}
        return {"metrics": metrics, "baselines": baselines}

    made = {
        "variant": variant, "title": f"{variant} | all", "seed": seed, "status": "finished",
        "settings": "s", "minutes": {"total": 2.0}, "commit": "abc", "hardware": "a machine",
        "dataset": "beauty", "protocol": "leave-one-out", "num_users": 1000, "num_items": 200,
        "data": {"checksum": "1234"}, "validation": {"ndcg@10": 0.2},
        "test": {"seen_left_out": rule(recall), "seen_allowed": rule(recall / 2)},
    }  # fmt: skip
    return made | more


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of rows, and of a plan for them."""
    (tmp_path / "mine.toml").write_text(PLAN)
    monkeypatch.setattr(results_table, "PLANS", tmp_path)
    rows = [row("ours", 0, 0.1), row("ours", 1, 0.12), row("theirs", 0, 0.08)]
    rows += [row("sasrec", 0, 0.09), row("ours", 2, 0.9, status="failed")]
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


def test_the_command_trains_what_is_missing_and_prints(tmp_path, monkeypatch, capsys):
    def run_sweep(trials, sweep, num_ranks, data):
        assert Path.cwd() == results.ROOT
        assert (num_ranks, data) == (2, str(tmp_path))
        trial = trials[0]
        made = row(trial.variant.name, trial.seed, 0.1, settings=trial.settings)
        results_table.RESULTS.joinpath()  # rows go where --rows says, not there
        sweep.rows.write_text(json.dumps(made) + "\n")
        return [made]

    monkeypatch.setattr(results, "run_sweep", run_sweep)
    cwd = Path.cwd()
    try:
        options = ["--table", "tiny", "--rows", str(tmp_path), "--data", str(tmp_path)]
        assert results.main([*options, "--num_accelerators", "2"]) == 0
    finally:
        os.chdir(cwd)
    captured = capsys.readouterr()
    assert ".1000" in captured.out
    assert "3 of 4 trainings have no row yet, 0 row(s)" in captured.err
    assert len(read_rows(tmp_path / "tiny.jsonl")) == 1


def test_print_trains_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(results, "run_sweep", None)
    assert results.main(["--table", "beauty", "--print", "--rows", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "Not measured yet.\n"
