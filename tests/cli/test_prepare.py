"""The verb: a guess that is shown, a folder that appears whole, a config that trains."""

import json

import pyarrow.parquet as pq
import pytest

pytest.importorskip("duckdb", reason="the extra `prepare`")

from store_engine.cli.prepare import main

ORDERS = "customer_id,product_id,quantity,date\n" + "".join(
    f"C{n % 2},P{n % 4},{n % 5},2024-01-{n + 1:02}\n" for n in range(20)
)
PRODUCTS = "product_id,name\n" + "".join(f"P{n},Thing <b>{n}</b> &amp; co\n" for n in range(4))


@pytest.fixture
def shop(tmp_path):
    folder = tmp_path / "shop"
    folder.mkdir()
    (folder / "orders.csv").write_text(ORDERS)
    (folder / "products.csv").write_text(PRODUCTS)
    return folder


def test_dry_run_shows_the_guess_and_writes_nothing(shop, capsys):
    assert main([str(shop), "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "user = customer_id, item = product_id, time = date" in shown
    assert "texts = name" in shown
    assert "times: ISO 8601" in shown
    assert "warning: quantity is <= 0 in 4 of 20 events" in " ".join(shown.split())
    assert "dry run, nothing is written: all rows were read" in shown
    (shop / "orders.csv").write_text(ORDERS + ",P1,1,2024-01-30\n")
    assert main([str(shop), "--dry-run"]) == 2
    assert "1 x no user id (guests) (first: row 21)" in capsys.readouterr().err
    assert sorted(path.name for path in shop.parent.iterdir()) == ["shop"]


def test_folder_has_data_card_and_config(shop, capsys):
    out = shop.parent / "out"
    assert main([str(shop), "--out", str(out), "--positive", "quantity > 0"]) == 0
    assert "events kept" in capsys.readouterr().out
    names = {path.name for path in out.iterdir()}
    assert {"README.md", "card.json", "data.toml"} < names
    assert names <= {"README.md", "card.json", "data.toml", "lock"} | {
        "interactions.parquet",
        "items.parquet",
    }
    card = json.loads((out / "card.json").read_text())
    assert (card["num_read"], card["num_not_positive"], card["num_events"]) == (20, 4, 16)
    assert card["rules"]["positive"] == "quantity > 0"
    assert card["texts"]["name"]["max"] == len("Thing 0 & co")
    assert "| events kept | 16 |" in (out / "README.md").read_text()
    assert pq.read_table(out / "items.parquet")["name"].to_pylist()[0] == "Thing 0 & co"


def test_all_files_behind_events_are_read(shop, capsys):
    (shop / "more.csv").write_text(ORDERS.replace("C", "D"))
    events = [str(shop / name) for name in ("orders.csv", "more.csv")]
    items = ["--items", str(shop / "products.csv")]
    out = ["--out", str(shop.parent / "out"), "--overwrite", "--json"]
    for given in (["--events", *events], ["--events", events[0], "--events", events[1]]):
        assert main([*given, *items, *out]) == 0
        assert json.loads(capsys.readouterr().out)["num_users"] == 4


def test_json_is_all_that_stdout_has(shop, capsys):
    assert main([str(shop), "--out", str(shop.parent / "out"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_users"] == 2


def test_output_is_replaced_only_if_it_is_said_and_its_own(shop, capsys):
    out = shop.parent / "out"
    arguments = [str(shop), "--out", str(out)]
    assert main(arguments) == 0
    before = (out / "card.json").read_bytes()
    assert main(arguments) == 2
    assert "--overwrite replaces it" in capsys.readouterr().err
    # a preparation that fails leaves the old one
    assert main([*arguments, "--overwrite", "--min-user", "99"]) == 2
    assert (out / "card.json").read_bytes() == before
    assert main([*arguments, "--overwrite", "--min-item", "1"]) == 0
    assert (out / "card.json").read_bytes() != before
    foreign = shop.parent / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("mine")
    assert main([str(shop), "--out", str(foreign), "--overwrite"]) == 2
    assert (foreign / "thesis.txt").read_text() == "mine"
    assert sorted(path.name for path in shop.parent.iterdir()) == ["foreign", "out", "shop"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "name the files"),
        (["FOLDER"], "--out DIR is missing"),
        (["FOLDER/none.csv", "--out", "x"], "none.csv"),
        (["FOLDER", "--out", "x", "--format", "excel"], "--format must be one of auto,"),
        (["FOLDER", "--out", "FOLDER/orders.csv"], "exists"),
    ],
)
def test_mistake_is_one_line(arguments, expected, shop, capsys):
    assert main([text.replace("FOLDER", str(shop)) for text in arguments]) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert error.count("\n") == 1
