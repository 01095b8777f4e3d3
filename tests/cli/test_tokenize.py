import csv
import json

import numpy as np
import pytest

from store_engine.cli.main import main
from store_engine.sid.sid_table import SidTable


def test_the_use_of_the_codes_in_words_and_as_json(run_dir, capsys):
    assert main(["tokenize", str(run_dir)]) == 0
    assert "60 items" in capsys.readouterr().out
    assert main(["tokenize", str(run_dir), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_items"] == 60


def test_the_sids_as_csv_are_exact_also_for_hostile_ids(hostile_run, tmp_path, capsys):
    out = tmp_path / "sids.csv"
    assert main(["tokenize", "--run", str(hostile_run), "--out", str(out)]) == 0
    with out.open(encoding="utf-8", newline="") as file:
        head, *rows = csv.reader(file)
    table = SidTable.load(hostile_run / "sids.npz")
    assert head == ["item_id", "code_0", "code_1", "code_2"]
    assert tuple(row[0] for row in rows) == table.item_ids
    assert np.array_equal(np.array([row[1:] for row in rows], dtype=int), table.sids)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--items", "new.csv"], "the run's SIDs were brought as a file, they have no codebook"),
        (["--out", "items.jsonl/x.csv"], "items.jsonl/x.csv: is a file of a run, name another"),
        (["--out", "model.safetensors"], "model.safetensors: is a file of a run, name another"),
        (["--out", "texts.tokens/x.csv"], "texts.tokens/x.csv: is a file of a run, name another"),
        (["--items", "new.csv", "--out", "./new.csv"], "new.csv: is read, name another"),
        (["--out", "a\0b"], "cannot be written"),
        (["--out", "sids.parquet"], "sids.parquet: is to be a csv, so the name of --out must end"),
    ],
)
def test_wrong_input_is_one_line_and_status_2(options, message, run_dir, capsys, monkeypatch):
    monkeypatch.chdir(run_dir)
    assert main(["tokenize", ".", *options]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == f"error: {captured.err[7:]}"
    assert message in captured.err
    assert captured.err.count("\n") == 1
