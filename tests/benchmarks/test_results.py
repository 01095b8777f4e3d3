"""The command that makes a table of results again."""

import json
import os
from pathlib import Path

from benchmarks import results
from store_engine.experiments.rows import read_rows


def test_the_command_trains_what_is_missing_and_prints(result_row, tmp_path, monkeypatch, capsys):
    def run_sweep(trials, sweep, num_ranks, data):
        assert Path.cwd() == results.ROOT
        assert (num_ranks, data) == (2, str(tmp_path))
        trial = trials[0]
        made = result_row(trial.variant.name, trial.seed, 0.1, settings=trial.settings)
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
