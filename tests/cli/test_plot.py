import json

import pytest

from store_engine.__main__ import main


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
        ([".", "--out", "no/folder.png"], "no/folder.png: "),
        ([".", "--out", "curves.bin"], "curves.bin: "),
    ],
    ids=["no run", "no folder", "no format"],
)
def test_what_cannot_be_drawn_is_one_line(arguments, message, run_dir, capsys, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(run_dir)
    assert main(["plot", *arguments]) == 2
    assert capsys.readouterr().err.startswith(f"error: {message}")
