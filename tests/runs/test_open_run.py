import json

import pytest

from store_engine.config import load_config
from store_engine.errors import InputError
from store_engine.runs.open_run import open_run

pytestmark = pytest.mark.usefixtures("process_group")


@pytest.fixture
def config(tmp_path):
    """A run on files of three items and two users."""
    items = "item_id,title\n" + "".join(f"i{i},film number {i}\n" for i in range(3))
    events = "".join(f"u{u},i{i},{i}\n" for u in range(2) for i in range(3))
    (tmp_path / "items.csv").write_text(items)
    (tmp_path / "interactions.csv").write_text("user_id,item_id,timestamp\n" + events)
    overrides = [f"run_dir={tmp_path}/run", "data.name=files", f"data.path={tmp_path}"]
    overrides += ['data.text_fields=["title"]', "data.text_vocab_size=300"]
    return load_config(None, [*overrides, "tokenizer.codebook_size=2"])


def open_again(config, resume=True, overwrite=False):
    return open_run(config, resume, overwrite, is_first=True)


def test_a_run_needs_nothing_but_itself(config, tmp_path):
    begun = open_again(config)
    (tmp_path / "items.csv").unlink()
    (tmp_path / "interactions.csv").unlink()
    assert open_again(config).catalog == begun.catalog


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("interactions.csv", "interactions.csv: changed since the run began"),
        ("run/histories.npz", "histories.npz: changed since the run began"),
        ("run/items.jsonl", "items.jsonl: changed since the run began"),
    ],
)
def test_changed_data_is_refused(name, message, config, tmp_path):
    open_again(config)
    with (tmp_path / name).open("ab") as file:
        file.write(b"u0,i0,9\n")
    with pytest.raises(InputError, match=message):
        open_again(config)


def test_lost_data_is_refused(config, tmp_path):
    open_again(config)
    (tmp_path / "run" / "text.model").unlink()
    with pytest.raises(InputError, match=r"text\.model: lost since the run began"):
        open_again(config)


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", r"data\.json: not valid JSON"), ("[]", r"data\.json: must hold a JSON object")],
    ids=["json", "list"],
)
def test_damaged_checksums_are_refused(text, message, config, tmp_path):
    open_again(config)
    (tmp_path / "run" / "data.json").write_text(text)
    with pytest.raises(InputError, match=message):
        open_again(config)


def test_changed_data_begins_anew_when_asked(config, tmp_path):
    open_again(config)
    with (tmp_path / "interactions.csv").open("a") as file:
        file.write("u0,i0,9\n")
    assert open_again(config, resume=False, overwrite=True).train.tokens.tolist() == [0, 1, 0]
    assert json.loads((tmp_path / "run" / "data.json").read_text()).keys() >= {"items.jsonl"}


def test_a_directory_that_cannot_be_made_is_named(config, tmp_path):
    (tmp_path / "run").write_text("a file stands here")
    with pytest.raises(InputError, match=r"run: cannot be written: Not a directory"):
        open_again(config)
    assert not (tmp_path / "run.partial").exists()
