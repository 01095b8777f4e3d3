import json

import pytest

from store_engine.cli.main import main
from store_engine.runs.run_directory import RunDirectory


def test_both_protocols_are_printed(hostile_run, capsys):
    assert main(["evaluate", str(hostile_run)]) == 0
    out = capsys.readouterr().out
    assert "seen items left out" in out
    assert "seen items allowed *" in out
    assert "100.0% of the targets stand in the user's history" in out


def test_save_writes_what_json_prints(hostile_run, capsys):
    options = ["decoding.exclude_history=true", "eval.max_k=5", "--save", "--json"]
    assert main(["evaluate", "--run", str(hostile_run), *options]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert json.loads((hostile_run / "metrics.json").read_text()) == printed
    assert printed["primary"] == "seen_left_out"
    assert "recall@5" in printed["metrics"]
    assert "recall@10" not in printed["metrics"]
    directory = RunDirectory.open(hostile_run)
    assert directory.is_complete(directory.metrics)  # the run knows it as its own
    assert directory.problem("metrics.json") is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["train.lr=1"], "changes decoding.key=value and eval.key=value, got 'train.lr=1'"),
        (["eval.max_k=40"], "beam_width must be at least eval.max_k, got 30 < 40"),
        (["more"], "got 'more'"),
    ],
)
def test_wrong_input_is_one_line_and_status_2(options, message, hostile_run, capsys):
    assert main(["evaluate", str(hostile_run), *options]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert message in captured.err
    assert captured.err.count("\n") == 1


def test_no_run_is_one_line(tmp_path, capsys):
    assert main(["evaluate", str(tmp_path / "no\x1b[31m")]) == 2
    assert (
        capsys.readouterr().err
        == f"error: {tmp_path}/no\\x1b[31m: not a run directory (it has no run.json)\n"
    )


def test_validation_leaves_the_test_alone(hostile_run, capsys):
    assert main(["evaluate", str(hostile_run), "--validation", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["num_users"] == 20
    assert {"ndcg@10", "recall@10", "mrr"} <= set(figures)
    assert main(["evaluate", str(hostile_run), "--validation"]) == 0
    assert "ndcg@10 " in capsys.readouterr().out
    assert main(["evaluate", str(hostile_run), "--validation", "--save"]) == 2
    assert "--validation measures none" in capsys.readouterr().err
