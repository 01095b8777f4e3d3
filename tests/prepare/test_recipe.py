"""A recipe reads the files it was made from as they were read; others are refused by column."""

import json

import pyarrow.parquet as pq
import pytest
from data_files import write_files
from data_samples import SAMPLES

pytest.importorskip("duckdb", reason="the extra `prepare`")

from store_engine.errors import InputError
from store_engine.prepare.later import later_lines, prepare_later_events, prepare_later_items
from store_engine.prepare.recipe import Recipe

ORDERS = "customer;sku;count;when\n" + "".join(
    f"C{n % 2};P{n % 3};{n % 4};{n + 1:02}.01.2024 10:00\n" for n in range(20)
)
PRODUCTS = "sku;name;price\n" + "".join(f"P{n};Thing <b>{n}</b> &amp; co;1,{n}\n" for n in range(3))
FILES = {"orders.csv": ORDERS, "products.csv": PRODUCTS}


def recipe_of(prepared):
    return Recipe.parse(json.loads((prepared.folder / "card.json").read_text())["recipe"], "card")


@pytest.fixture
def again(tmp_path):
    """Prepares later files by a recipe; the events, the items' texts, and what was said."""

    def run(recipe, events, items, known=None):
        places = [tmp_path / "events", tmp_path / "items"]
        for place in places:
            place.mkdir()
        done = [prepare_later_events(recipe, recipe.event_table(events), known, places[0])]
        if items is not None:
            done += [prepare_later_items(recipe, recipe.item_table(items), places[1])]
        said = [line for report in done for line in later_lines(report)]
        folder = places[0 if items is None else 1]
        rows = pq.read_table(folder / "items.parquet").to_pylist()
        texts = {row.pop("item_id"): tuple(row.values()) for row in rows}
        found = pq.read_table(places[0] / "interactions.parquet").to_pylist()
        return [tuple(row.values()) for row in found], texts, said

    return run


@pytest.mark.parametrize("name", [name for name in SAMPLES if not name.startswith("part files")])
def test_the_same_files_are_read_the_same_way(name, prepared, again):
    first = prepared(SAMPLES[name].files)
    found, recipe = first.report.found, recipe_of(first)
    events = found.events.storage.files[0]
    items = found.items.storage.files[0] if found.items is not None else None
    got = again(recipe, events, items, None if items is None else tuple(first.items))
    assert got[:2] == (first.events, first.items)


@pytest.mark.parametrize("name", ["movielens-1m", "amazon-2023", "goodreads"])
def test_a_data_sets_files_may_have_other_names_later(name, prepared, again):
    first = prepared(SAMPLES[name].files)
    found, recipe = first.report.found, recipe_of(first)
    later = [table.storage.files[0].rename(found.events.storage.files[0].with_name(f"later{n}"))
             for n, table in enumerate((found.events, found.items))]  # fmt: skip
    assert again(recipe, *later, tuple(first.items))[:2] == (first.events, first.items)


def test_choices_hold_where_a_guess_would_be_another(prepared, again, tmp_path):
    """Day and month could be either, the separator too, and the rules are not the defaults."""
    first = prepared(FILES, {"positive": "count > 0", "on_error": "drop", "min_user": 3})
    recipe = recipe_of(first)
    assert recipe.time_form == "%d.%m.%Y %H:%M"
    later = write_files(tmp_path / "later", {
        "o.csv": "sku;count;when;customer\nP1;1;02.03.2024 10:00;C9\nP1;0;03.03.2024 10:00;C9\n"
        ";1;03.03.2024 10:00;C9\nP9;1;01.04.2024 09:00;C9\n",
        "p.csv": "sku;name\nP9;a, b,c, d &amp; e\n",
    })  # fmt: skip
    events, items, said = again(recipe, later / "o.csv", later / "p.csv", ("P1", "P9"))
    assert [(user, item, str(time)) for user, item, time in events] == [
        ("C9", "P1", "2024-03-02 10:00:00"), ("C9", "P9", "2024-04-01 09:00:00")
    ]  # fmt: skip
    assert items == {"P9": ("a, b,c, d & e",)}
    assert said[0].endswith(
        "4 events read; left out: 1 x no item id (first: row 3); 1 x not count > 0"
    )
    assert said[1].endswith("p.csv: prepared as the run's data were: 1 items read")
    assert said[2:] == ["p.csv: 1 rows have the ; of an HTML entity, which ends no field there"]


def test_items_that_the_events_made_come_with_the_events(prepared, again, tmp_path):
    header = "user_id,item_id,title,timestamp\n"
    rows = [f"u{n % 2},i{n % 3},Thing {n % 3},{n}\n" for n in range(12)]
    first = prepared({"e.csv": header + "".join(rows)})
    later = write_files(tmp_path / "later", {"e.csv": f"{header}u1,i9,New <i>one</i>,99\n"})
    events, items, _ = again(recipe_of(first), later / "e.csv", None)
    assert (events, items) == ([("u1", "i9", 99)], {"i9": ("New one",)})
    with pytest.raises(InputError, match="the run's items were made of its events"):
        recipe_of(first).item_table(later / "e.csv")


def test_a_file_without_a_header_keeps_its_names(prepared, again, tmp_path):
    rows = [f"u{n % 3}\ti{n % 2}\t{n}\n" for n in range(12)]
    names = ("who", "what", "when")
    choices = {"user": "who", "item": "what", "time": "when", "event_columns": names}
    first = prepared({"e.tsv": "".join(rows)}, **choices)
    # one row of words would be taken for a header
    later = write_files(tmp_path / "later", {"e.tsv": "me\ti1\t7\n", "wide.tsv": "me\ti1\t7\t8\n"})
    assert again(recipe_of(first), later / "e.tsv", None)[0] == [("me", "i1", 7)]
    with pytest.raises(InputError, match=r"must have 3 columns.*\(who, what, when\), has 4"):
        recipe_of(first).event_table(later / "wide.tsv")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "customer;sku;count\nC1;P1;1\n",
            "column 'when' is required, .*: customer, sku, count",
        ),
        ("customer;sku;when\nC1;P1;02.01.2024 10:00\n", "column 'count' is required"),
        (ORDERS.replace(";", ","), "column 'customer' is required, .*columns: customer,sku,count"),
        ('{"customer": "C1"}\n', "must be text, ';' between fields, a header.*, is json"),
        (ORDERS.replace(".01.2024 10:00", ""), "no known form fits|times must be"),
        (ORDERS + ";P1;1;02.01.2024 10:00\n", r"bad rows: 1 x no user id .*rules are those that"),
        (ORDERS + "C1;P7;1;02.01.2024 10:00\n", "1 events name items that the 3 of the catalogue"),
    ],
    ids=["column", "positive", "separator", "kind", "times", "bad row", "unknown"],
)
def test_what_does_not_fit_is_refused(content, message, prepared, again, tmp_path):
    recipe = recipe_of(prepared(FILES, {"positive": "count > 0"}))
    later = write_files(tmp_path / "later", {"o.csv": content})
    with pytest.raises(InputError, match=message) as error:
        again(recipe, later / "o.csv", None, ("P0", "P1", "P2"))
    assert "o.csv" in str(error.value)


def test_another_form_of_times_is_refused(prepared, again, tmp_path):
    files = {"e.csv": "user_id,item_id,time\n" + "".join(f"u,i{n},{n}\n" for n in range(9))}
    recipe = recipe_of(prepared(files))
    later = write_files(tmp_path / "later", {"e.csv": "user_id,item_id,time\nu,i1,2024-01-01\n"})
    with pytest.raises(InputError, match=r"times must be whole numbers, .*are ISO 8601"):
        again(recipe, later / "e.csv", None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"events": []}, "events must be a section"),
        ({"rules": {"on_error": "guess"}}, "rules.on_error must be one of stop, drop"),
        ({"rules": {"positive": "1 = ; drop"}}, "--positive"),
        ({"events": {"quote": '""'}}, "quote and escape must be one letter"),
        ({"events": {"columns": ["a", 1]}}, "events.columns must be str"),
        ({"code": "1"}, "unknown"),
    ],
)
def test_a_damaged_recipe_is_refused(change, message):
    with pytest.raises(InputError, match=message) as error:
        Recipe.parse(json.loads(json.dumps(Recipe().as_json())) | change, "card.json: recipe")
    assert str(error.value).startswith("card.json: recipe: ")
