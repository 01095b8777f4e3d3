"""A shop's raw files come to a run by the recipe that prepared its data; prepared ones as ever."""

import json
import shutil

import pytest
from data_files import write_files

pytest.importorskip("duckdb", reason="the extra `prepare`")

from store_engine.config import load_config
from store_engine.data.report import DataReport
from store_engine.errors import InputError
from store_engine.prepare.output import prepare
from store_engine.prepare.readers.discover import Choices, discover
from store_engine.prepare.rules import Rules
from store_engine.runs.continued import NewData, Parent
from store_engine.runs.later_files import LaterFiles
from store_engine.runs.open_run import begin_or_resume
from store_engine.runs.run import Run
from store_engine.runs.run_directory import RunDirectory

pytestmark = pytest.mark.usefixtures("process_group")

HEADER = "customer,sku,count,when\n"
ORDERS = HEADER + "".join(f"c{c},P{n},1,2024-01-0{n + 1}\n" for c in range(3) for n in range(3))
PRODUCTS = "sku,name,price\n" + "".join(f"P{n},<b>Thing</b> &amp; {n},1.5\n" for n in range(4))


@pytest.fixture
def parent_dir(tmp_path):
    """A run of prepared data that looks finished; no weight of it is read."""
    source = write_files(tmp_path / "shop", {"orders.csv": ORDERS, "products.csv": PRODUCTS})
    found = discover([source], [], [], Choices())
    rules = Rules(positive="count > 0", on_error="drop")
    prepare(found, rules, tmp_path / "data", False, lambda step: None)
    overrides = [f"run_dir={tmp_path}/old", "data.text_vocab_size=290", "tokenizer.codebook_size=4"]
    config = load_config(tmp_path / "data" / "data.toml", overrides)
    with begin_or_resume(config, False, False) as run:
        for path in (run.tokenizer_weights, run.model_weights, run.sids):
            with run.writing(path):
                path.write_text(path.name)
    shutil.rmtree(tmp_path / "data")  # the run needs nothing but itself
    return run.root


@pytest.fixture
def files(tmp_path):
    def write(**contents):
        named = {f"{name}.csv": content for name, content in contents.items()}
        folder = write_files(tmp_path / "new", named)
        return NewData(**{name: str(folder / f"{name}.csv") for name in contents})

    return write


def begin(parent_dir, new):
    """Begins the next run; its directory, closed."""
    parent = Parent(parent_dir, new)
    config = parent.config([], [f"run_dir={parent_dir}-2"])
    directory = begin_or_resume(config, False, False, parent)
    directory.close()
    return directory


RAW_ITEMS = "price,name,sku\n9,New &lt; old,P9\n,<i>Thing</i> one,P1\n"
RAW_EVENTS = (
    f"{HEADER}c1,P9,2,2024-02-02\nc1,P3,1,2024-02-01\n,P3,1,2024-02-01\nc1,P0,-1,2024-02-01\n"
)
PREPARED_ITEMS = "item_id,name\nP9,New < old\nP1,Thing one\n"
PREPARED_EVENTS = "user_id,item_id,timestamp\nc1,P9,2024-02-02\nc1,P3,2024-02-01\n"


@pytest.mark.parametrize("events", [RAW_EVENTS, PREPARED_EVENTS], ids=["raw", "prepared"])
@pytest.mark.parametrize("items", [RAW_ITEMS, PREPARED_ITEMS], ids=["raw", "prepared"])
def test_raw_and_prepared_files_make_the_same_run(items, events, parent_dir, files, capsys):
    run = Run(begin(parent_dir, files(items=items, interactions=events)))
    assert run.catalog.item_ids == ("P0", "P1", "P2", "P3", "P9")
    assert run.catalog.fields["name"] == (
        "Thing & 0", "Thing one", "Thing & 2", "Thing & 3", "New < old"
    )  # fmt: skip
    assert [run.histories[u].tolist() for u in range(3)] == [[0, 1, 2], [0, 1, 2, 3, 4], [0, 1, 2]]
    said = capsys.readouterr().out
    left_out = "4 events read; left out: 1 x no user id (guests) (first: row 3); 1 x not count > 0"
    assert (left_out in said) == (events == RAW_EVENTS)
    assert ("items.csv: prepared as the run's data were: 2 items" in said) == (items == RAW_ITEMS)
    assert {name.rpartition("/")[2] for name in run.manifest.sources} == {
        "items.csv", "interactions.csv"
    }  # fmt: skip
    # the recipe goes on to the next run
    assert run.recipe == Run(RunDirectory.open(parent_dir)).recipe is not None


def test_events_alone_know_the_runs_items(parent_dir, files):
    with pytest.raises(
        InputError, match=r"interactions.csv: 1 events name items that the 4 .*'P9'"
    ):
        begin(parent_dir, files(interactions=RAW_EVENTS))


def test_items_alone_are_told_of(parent_dir, files, capsys):
    run = Run(begin(parent_dir, files(items=RAW_ITEMS)))
    assert run.catalog.item_ids[-1] == "P9"
    assert "items.csv: prepared as the run's data were: 2 items read" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("interactions", "customer,sku,count\nc1,P1,1\n",
         "column 'when' is required, .*: customer, sku, count; or user_id, item_id, timestamp,"),
        ("interactions", "user_id,item_id\nc1,P1\n", "column 'customer' is required"),
        ("items", "sku,price\nP9,1\n", "column 'name' is required, .*: sku, price; or item_id"),
        ("items", "", "is empty"),
    ],
)  # fmt: skip
def test_a_file_in_neither_form_is_refused(name, content, message, parent_dir, files):
    with pytest.raises(InputError, match=message) as error:
        begin(parent_dir, files(**{name: content}))
    assert f"{name}.csv" in str(error.value)
    assert not parent_dir.with_name("old-2").exists()


def test_a_run_of_other_data_takes_the_prepared_form_alone(tmp_path, files):
    folder = write_files(tmp_path / "own", {
        "items.csv": "item_id,name\n" + "".join(f"P{n},Thing {n}\n" for n in range(4)),
        "interactions.csv": "user_id,item_id,timestamp\n"
        + "".join(f"c{c},P{n},{n}\n" for c in range(3) for n in range(3)),
    })  # fmt: skip
    overrides = [f"run_dir={tmp_path}/run", "data.name=files", f"data.path={folder}"]
    overrides += ['data.text_fields=["name"]', "data.text_vocab_size=290"]
    overrides += ["tokenizer.codebook_size=4", "eval.max_k=2"]
    begin_or_resume(load_config(None, overrides), False, False).close()
    run = Run(RunDirectory.open(tmp_path / "run"))
    assert run.recipe is None
    later, new = LaterFiles(run, run.config.data, DataReport()), files(items=RAW_ITEMS)
    with pytest.raises(InputError, match="column item_id is missing; columns: price, name, sku"):
        later.items(tmp_path / "new" / "items.csv")
    assert later.raw_items(tmp_path / "new" / "items.csv") is None and new.items


def test_a_recipe_that_was_changed_is_refused(parent_dir, files):
    path = RunDirectory.open(parent_dir).recipe
    values = json.loads(path.read_text())
    values["rules"]["positive"] = "count < 0"
    path.write_text(json.dumps(values, indent=1))
    with pytest.raises(InputError, match=r"recipe\.json: changed or damaged"):
        begin(parent_dir, files(interactions=RAW_EVENTS))
