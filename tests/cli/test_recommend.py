import json
import subprocess
import sys

import pytest

from store_engine.cli.recommend import item_ids, main
from store_engine.decoding.engine import Engine
from store_engine.errors import InputError


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


def test_a_table_shows_what_it_is_ordered_by(run_dir, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    assert columns(capsys, run_dir) == ["rank", "item id", "title", "score"]


def test_a_score_is_shown_with_its_parts(run_with_evidence, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    names = columns(capsys, run_with_evidence)
    assert names == ["rank", "item id", "title", "score", "log-probability", "evidence"]
    assert main([str(run_with_evidence), "--history", "item 3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    scores = [one["score"] for one in found]
    assert scores == sorted(scores, reverse=True)
    assert scores == pytest.approx([one["logprob"] + one["evidence"] for one in found])
    assert found[0]["evidence"] > 0  # every item votes for the next one


def columns(capsys, run_dir):
    assert main([str(run_dir), "--history", "item 3"]) == 0
    heading = next(line for line in capsys.readouterr().out.splitlines() if "rank" in line)
    return [name.strip() for name in heading.strip("┃").split("┃")]


def test_a_user_without_history(run_dir, capsys):
    assert main(["--run", str(run_dir), "--history", "", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--history", "item 3,ITEM 4"], "unknown item id 'ITEM 4'; the catalogue has 60, did you"),
        (["--history", "item 3,nobody"], "unknown item id 'nobody'"),
        (["--history", "", "--allow", "nobody"], "unknown item id 'nobody'"),
        (["--history", "", "--deny", "@no/file"], "no/file: No such file"),
        (["--history", "", "--exclude", "[nobody]"], "must be JSON"),
        (["--history", "item 3", "--beam-width", "2"], "beam_width 2 < k 10"),
        (["--history", "item 3", "--run", "nowhere"], "nowhere: not a run directory"),
    ],
    ids=["capitals", "item", "allow", "deny", "exclude", "beam", "run"],
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


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("", []),
        (" , ", []),
        ("50,181", ["50", "181"]),
        (" item 3 ,item 4,", ["item 3", "item 4"]),
        ('["a, b", " c ", "[d]"]', ["a, b", " c ", "[d]"]),
        (' [50, "181"]', ["50", "181"]),
        ("[]", []),
        ("漢,é", ["漢", "é"]),
    ],
)
def test_lists_of_ids(text, want):
    assert item_ids(text) == want


@pytest.mark.parametrize(
    ("content", "want"),
    [
        ("", []),
        ("a, b\n c\r\n\n漢", ["a, b", "c", "漢"]),
        ("\ufeffa\n[b]\n", ["a", "[b]"]),
        ("a\x85b\u2028c\n", ["a\x85b\u2028c"]),  # only a line feed ends an id
    ],
)
def test_lists_of_ids_in_a_file(content, want, tmp_path):
    (tmp_path / "ids.txt").write_text(content, encoding="utf-8", newline="")
    assert item_ids(f"@{tmp_path / 'ids.txt'}") == want


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[a]", "must be JSON"),
        ("[", "must be JSON"),
        ("[" * 100_000, "must be JSON"),
        ("[1.5]", "must be a string, got 1.5"),
        ("[true]", "must be a string, got true"),
        ('["a", null]', "must be a string, got null"),
        ('[["a"]]', "must be a string, got"),
        ("@.", "must be a regular file, is a directory"),
        ("@/dev/zero", "is a device"),
    ],
    ids=lambda text: text[:12],
)
def test_what_is_no_list_of_ids_is_refused(text, message):
    with pytest.raises(InputError, match=message):
        item_ids(text)


def test_a_file_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "ids").write_bytes(b"a\n\xff\xfe\n")
    with pytest.raises(InputError, match="not a text file in UTF-8"):
        item_ids(f"@{tmp_path / 'ids'}")


def recommended(capsys, *options):
    assert main([*options, "--json"]) == 0
    return [one["item_id"] for one in json.loads(capsys.readouterr().out)]


def test_an_id_may_hold_a_comma(hostile_run, capsys):
    for options in (["--history-item", "ítem, [red]漢"], ["--history", '["ítem, [red]漢"]']):
        found = recommended(capsys, str(hostile_run), *options, "--exclude-history", "-k", "60")
        assert len(found) == 59
        assert "ítem, [red]漢" not in found


def test_a_run_is_the_first_argument_or_a_flag(run_dir, capsys):
    want = recommended(capsys, "--run", str(run_dir), "--history", "item 3")
    assert recommended(capsys, str(run_dir), "--history", "item 3") == want
    assert recommended(capsys, "--history-item", "item 3", "--", str(run_dir)) == want


def test_a_list_that_allows_nothing_allows_nothing(run_dir, tmp_path, capsys):
    (tmp_path / "sold_out.txt").write_text("\n")
    for ids in ("", ",", "[]", f"@{tmp_path / 'sold_out.txt'}"):
        assert recommended(capsys, str(run_dir), "--history", "item 3", "--allow", ids) == []
        assert recommended(capsys, str(run_dir), "--history", "item 3", "--deny", ids) != []


def test_allow_deny_and_exclude(run_dir, tmp_path, capsys):
    best = recommended(capsys, str(run_dir), "--history", "item 3", "-k", "6")
    (tmp_path / "stock.txt").write_text("\n".join(best[:5]))
    left = recommended(
        capsys, str(run_dir), "--history", "item 3", "-k", "6",
        "--allow", f"@{tmp_path / 'stock.txt'}", "--deny", best[0],
        "--exclude", f"{best[2]},{best[3]}",
    )  # fmt: skip
    assert left == [best[1], best[4]]


def test_titles_and_ids_cannot_steer_the_terminal(hostile_run, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "150")
    history = json.dumps(["ítem, [red]漢", "\x1b]0;id\x07"])
    assert main([str(hostile_run), "--history", history, "-k", "60"]) == 0
    out = capsys.readouterr().out
    assert not {"\x1b", "\x07", "\x9b"} & set(out)
    assert "after ítem, [red]漢 [31m[red]Rot[/red] [/] :smile: 漢 zwei" in out.splitlines()
    assert len([line for line in out.splitlines() if "[red]Rot[/red] [/] :smile:" in line]) == 62


def test_ids_are_never_cut(hostile_run, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "30")
    assert main([str(hostile_run), "--history", "", "-k", "1", "--allow", "ítem 59"]) == 0
    rows = [line.split("│")[2] for line in capsys.readouterr().out.splitlines() if "│" in line]
    assert "".join("".join(rows).split()) == "ítem59"
