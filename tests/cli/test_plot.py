import json

import pytest

from store_engine.cli.main import main


@pytest.fixture
def run_dir(tmp_path):
    """A run that was killed in its second stage, in the middle of a line."""
    entries = [
        {"stage": "tokenizer", "step": i, "loss": 3.0 / i, "title": 3.0 / i, "lr": 0.1,
         "tokens_per_s": 9.0, "wall_s": 1.0}
        for i in (1, 2, 3)
    ]  # fmt: skip
    entries += [{**entries[0], "stage": "recommender", "next_item": 4.0}]
    (tmp_path / "train_log.jsonl").write_text("\n".join(map(json.dumps, entries)) + '\n{"sta')
    return tmp_path


def test_an_unfinished_run_is_drawn(run_dir, capsys):
    pytest.importorskip("matplotlib")
    assert main(["plot", str(run_dir)]) == 0
    assert capsys.readouterr().out.strip() == str(run_dir / "curves.png")
    assert (run_dir / "curves.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere: nothing to draw"),
        ([".", "--out", "train_log.jsonl/x.png"], "train_log.jsonl/x.png: its folder cannot be"),
        ([".", "--out", "curves.bin"], "curves.bin: "),
        ([".", "--out", "curves"], "curves: the suffix says the format"),
        ([".", "--out", "/dev/full"], "/dev/full: the suffix says the format"),
    ],
    ids=["no run", "no folder", "no format", "no suffix", "device"],
)
def test_what_cannot_be_drawn_is_one_line(arguments, message, run_dir, capsys, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(run_dir)
    assert main(["plot", *arguments]) == 2
    assert capsys.readouterr().err.startswith(f"error: {message}")


@pytest.mark.parametrize("name", ["$x_{$", "_hidden", "[red]x[:]", "\x1b[31m漢", "\\alpha"])
def test_names_of_losses_and_folders_are_no_formula(name, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    run_dir = tmp_path / f"run {name}"
    run_dir.mkdir()
    entry = {"stage": "tokenizer", "step": 1, "loss": 1.0, name: 2.0, "lr": 0.1}
    entry |= {"tokens_per_s": 9.0, "wall_s": 1.0}
    (run_dir / "train_log.jsonl").write_text(json.dumps(entry) + "\n")
    assert main(["plot", str(run_dir)]) == 0
    assert (run_dir / "curves.png").exists()
    assert "\x1b" not in capsys.readouterr().out
