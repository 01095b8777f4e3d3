import json

import pytest

from store_engine.cli.main import main


def test_engine_and_plain_pytorch_find_the_same_items(run_dir, capsys):
    arguments = ["--batch", "1", "2", "-k", "5", "--seconds", "0.01", "--dtype", "float32"]
    assert main(["bench", str(run_dir), *arguments, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert {(row["batch_size"], row["provider"]) for row in rows} == {
        (size, name) for size in (1, 2) for name in ("engine", "plain PyTorch")
    }
    for row in rows:
        assert row["same_items"] == 1.0
        assert 0 < row["p50_ms"] <= row["p95_ms"]
        assert row["requests_per_s"] == pytest.approx(1e3 * row["batch_size"] / row["p50_ms"])
    assert all(row["times_faster"] == 1 for row in rows if row["provider"] == "plain PyTorch")


def test_the_table_is_printed(run_dir, capsys):
    assert main(["bench", str(run_dir), "--batch", "1", "-k", "5", "--seconds", "0.01"]) == 0
    assert "plain PyTorch" in capsys.readouterr().out


def test_a_run_without_users_and_with_a_removed_item_is_timed_too(run_dir, capsys):
    for verb in (
        ["forget", str(run_dir), "--user", "u"],
        ["forget", str(run_dir), "--user", "v"],
        ["remove-items", str(run_dir), "--items", "item 3"],
    ):
        assert main(verb) == 0
    capsys.readouterr()
    assert (
        main(["bench", str(run_dir), "--batch", "2", "-k", "5", "--seconds", "0.01", "--json"]) == 0
    )
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["provider"] for row in rows] == ["engine", "plain PyTorch"]
    assert main(["report", str(run_dir), "--out", str(run_dir.parent / "page.html")]) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-k", "0"], "k and batch sizes must be at least 1"),
        (["--batch", "0"], "k and batch sizes must be at least 1"),
        (["--seconds", "nan"], "seconds must be in (0, 3600], got nan"),
        (["--device", "cuda:9"], "cuda"),
    ],
)
def test_wrong_input_is_one_line(options, message, run_dir, capsys):
    assert main(["bench", str(run_dir), *options]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
