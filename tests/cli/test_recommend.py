import json
import subprocess
import sys

import pytest

from store_engine.cli.recommend import main
from store_engine.decoding.engine import Engine


def test_json_is_what_the_engine_recommends(run_dir, capsys):
    options = ["--run", str(run_dir), "--history", "item 3, item 4", "-k", "6", "--json"]
    assert main(options) == 0
    got = json.loads(capsys.readouterr().out)
    want = Engine.load(run_dir).recommend([["item 3", "item 4"]], 6)[0]
    assert [(one["rank"], one["item_id"]) for one in got] == [
        (rank, item.item_id) for rank, item in enumerate(want, 1)
    ]
    assert all(one["title"] == f"Title [of] {one['item_id']}" for one in got)
    assert [one["logprob"] for one in got] == pytest.approx([item.logprob for item in want])


@pytest.mark.parametrize(
    "options",
    [[], ["--exact"], ["--beam-width", "60"], ["--backend", "torch"], ["--exclude-history"]],
    ids=lambda options: " ".join(options) or "default",
)
def test_table(run_dir, capsys, monkeypatch, options):
    monkeypatch.setenv("COLUMNS", "120")
    assert main(["--run", str(run_dir), "--history", "item 3", "-k", "3", *options]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "after item 3 Title [of] item 3"
    found = [line for line in lines if "│" in line]
    assert len(found) == 3
    assert all("Title [of] item" in line for line in found)  # brackets are not markup


def test_a_user_without_history(run_dir, capsys):
    assert main(["--run", str(run_dir), "--history", "", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--history", "item 3,nobody"], "unknown item id 'nobody'"),
        (["--history", "item 3", "--beam-width", "2"], "beam_width 2 < k 10"),
        (["--history", "item 3", "--run", "nowhere"], "nowhere: not a run directory"),
    ],
    ids=["item", "beam", "run"],
)
def test_wrong_input_is_one_line_and_status_2(run_dir, capsys, options, message):
    assert main(["--run", str(run_dir), *options]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1


def test_runs_as_a_script(run_dir):
    command = [
        sys.executable,
        "-m",
        "store_engine",
        "recommend",
        "--run",
        str(run_dir),
        "--history",
        "item 1",
        "--json",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert len(json.loads(done.stdout)) == 10
