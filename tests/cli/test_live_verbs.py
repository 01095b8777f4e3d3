"""add-items, remove-items, compact and forget: from the shell to the disk."""

import json

import pytest
from live_runs import make_run

from store_engine import Engine
from store_engine.cli.main import main
from store_engine.files.json_file import write_json
from store_engine.prepare.recipe import Recipe, TableRecipe
from store_engine.runs.run_directory import RunDirectory


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "run")


@pytest.fixture
def new_csv(tmp_path):
    path = tmp_path / "new.csv"
    path.write_text("item_id,title,brand\nnew 1,green <b>cup</b>,brand 1\nnew 2,red rug,brand 2\n")
    return str(path)


def test_the_whole_way(run, new_csv, tmp_path, capsys):
    assert main(["add-items", str(run), "--items", new_csv]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line[:5] for line in lines[:2]] == ["new 1", "new 2"]
    assert lines[2] == "2 items added, 0 updated; the catalogue has 62"
    assert Engine.load(run).catalog.fields["title"][60] == "green cup"
    assert main(["add-items", str(run), "--items", new_csv]) == 2
    assert "'new 1' is in the catalogue already" in capsys.readouterr().err
    assert main(["add-items", str(run), "--items", new_csv, "--update", "--json"]) == 0
    assert json.loads(capsys.readouterr().out).keys() == {"new 1", "new 2"}
    gone = tmp_path / "gone.txt"
    gone.write_text("item 3\nnew 2\n")
    assert main(["remove-items", str(run), "--items", f"@{gone}"]) == 0
    assert capsys.readouterr().out == "2 items removed; the catalogue has 60\n"
    assert main(["compact", str(run)]) == 0
    assert "has all changes up to number 3; 60 items" in capsys.readouterr().out
    assert main(["check", str(run), "--verify"]) == 0
    assert main(["forget", str(run), "--user", "anna"]) == 0
    assert "weights and item-item evidence" in capsys.readouterr().out
    assert main(["forget", str(run), "--user", "anna"]) == 2
    assert "unknown user id 'anna'" in capsys.readouterr().err
    assert main(["check", str(run), "--verify"]) == 0
    capsys.readouterr()
    assert main(["recommend", str(run), "--history", "new 1", "-k", "3", "--explain"]) == 0
    out = capsys.readouterr().out
    assert out.count("after new 1 green cup: 0% of the evidence, LLM ") == 3
    assert (
        main(["recommend", str(run), "--history", "new 1", "-k", "2", "--explain", "--json"]) == 0
    )
    first = json.loads(capsys.readouterr().out)[0]
    assert first["explanation"]["history"][0]["item_id"] == "new 1"
    assert first["explanation"]["logprob"] == pytest.approx(first["logprob"], abs=1e-4)


@pytest.fixture
def with_recipe(run):
    """The run, as if `prepare` had made its data of a shop's csv."""
    marks = {"format": "delimited", "delimiter": ";", "quote": '"', "escape": '"'}
    items = TableRecipe(**marks, item="sku", texts=("title", "brand"))
    with RunDirectory.open_to_write(run) as directory, directory.writing(directory.recipe):
        write_json(directory.recipe, Recipe(items=items).as_json())
    return run


@pytest.mark.parametrize("verb", ["add-items", "tokenize"])
def test_a_shops_file_is_cleaned_as_the_runs_data_were(verb, with_recipe, tmp_path, capsys):
    path = tmp_path / "raw.csv"
    path.write_text('brand;sku;price;title\nbrand 1;new 1;"1,5";<i>green</i> &amp;amp; red cup\n')
    more = ["--out", str(tmp_path / "sids.csv")] if verb == "tokenize" else []
    assert main([verb, str(with_recipe), "--items", str(path), *more]) == 0
    assert "raw.csv: prepared as the run's data were: 1 items read" in capsys.readouterr().err
    if verb == "add-items":
        fields = Engine.load(with_recipe).catalog.fields
        assert [texts[60] for texts in fields.values()] == ["green & red cup", "brand 1"]
    path.write_text("brand;sku;title\nbrand 1;;green cup\n")
    assert main([verb, str(with_recipe), "--items", str(path), *more]) == 2
    assert "bad rows: 1 x items without an id" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["add-items", "nowhere", "--items", "new.csv"], "nowhere: not a run directory"),
        (["add-items", "run", "--items", "no.csv"], "no.csv: No such file"),
        (["remove-items", "run", "--items", "nobody"], "unknown item id 'nobody'"),
        (["compact", "nowhere"], "nowhere: not a run directory"),
        (["forget", "run", "--user", "nobody"], "unknown user id 'nobody'"),
    ],
    ids=lambda value: " ".join(value)[:20] if isinstance(value, list) else "",
)
def test_wrong_input_is_one_line_and_status_2(arguments, message, run, capsys, monkeypatch):
    monkeypatch.chdir(run.parent)
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1


def test_a_run_that_a_server_writes_to_is_refused(run, new_csv, capsys):
    server = Engine.load(run)
    server.remove_items(["item 1"])
    for arguments in (["add-items", "--items", new_csv], ["compact"], ["forget", "--user", "ben"]):
        assert main([arguments[0], str(run), *arguments[1:]]) == 2
        assert "in use by process" in capsys.readouterr().err
    server.close()
    assert main(["compact", str(run)]) == 0


def test_warns_in_one_line(run, tmp_path, capsys):
    path = tmp_path / "new.csv"
    path.write_text(
        "item_id,title,brand\n" + "".join(f"n{n},同じ同じ同じ同じ同じ,\n" for n in range(5))
    )
    assert main(["add-items", str(run), "--items", str(path)]) == 0
    err = capsys.readouterr().err.splitlines()
    assert all(line.startswith("warning: 5 of 5 new items") for line in err)
    assert err


def test_a_damaged_journal_is_not_whole(run, capsys):
    engine = Engine.load(run)
    engine.remove_items(["item 1"])
    engine.close()
    assert main(["check", str(run)]) == 0
    assert "journal: whole, 1 changes" in capsys.readouterr().out
    (run / "journal.db").write_bytes(b"SQLite format 3\0" + bytes(4080))
    assert main(["check", str(run)]) == 2
    assert "not whole: journal.db" in capsys.readouterr().err
    assert main(["recommend", str(run), "--history", "item 3"]) == 2
    assert "journal.db: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("header", "columns", "texts", "said"),
    [
        ("sku,title,brand", "", ("red", "rug"), "no column item_id; sku is taken for the ids"),
        ("item_id,name,make", "title=name,brand=make", ("red", "rug"), ""),
        ("code,title,x", "item_id=code", ("red", ""), "no column brand: its items have none"),
        ("item_id,x,brand", "", ("", "rug"), "no column title: its items have none"),
    ],
    ids=["ids guessed", "mapped", "no brand", "no title"],
)
def test_a_file_with_other_columns(run, tmp_path, capsys, header, columns, texts, said):
    path = tmp_path / "new.csv"
    path.write_text(f"{header}\nn1,red,rug\n")
    options = ["--columns", columns] if columns else []
    assert main(["add-items", str(run), "--items", str(path), *options]) == 0
    assert said in capsys.readouterr().err
    assert tuple(column[-1] for column in Engine.load(run).catalog.fields.values()) == texts


@pytest.mark.parametrize(
    ("header", "columns", "said"),
    [
        ("id;title", "", "new.csv line 2: expected 2 columns, got 1"),
        ("item_id,colour", "", "data.text_fields says which is wanted"),
        ("item_id,title", "size=title", "the run has no column 'size', it has item_id, title"),
        ("item_id,title", "title=name", "column name is missing"),
        ("item_id,title", "title", "must be NAME=COLUMN"),
    ],
)
def test_columns_that_cannot_be_read(run, tmp_path, capsys, header, columns, said):
    path = tmp_path / "new.csv"
    path.write_text(f"{header}\nn1,red\n")
    options = ["--columns", columns] if columns else []
    try:
        assert main(["add-items", str(run), "--items", str(path), *options]) == 2
    except SystemExit as end:
        assert end.code == 2
    assert said in capsys.readouterr().err
