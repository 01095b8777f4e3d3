import dataclasses
import json
import os

import numpy as np
import pytest

from store_engine.config import Config, DecodingConfig, load_config
from store_engine.data.histories import Histories
from store_engine.errors import InputError
from store_engine.runs.open_run import begin_or_resume, decide, read_run_data

pytestmark = pytest.mark.usefixtures("process_group")


@pytest.fixture
def config(tmp_path):
    """A run on files of three items and two users."""
    items = "item_id,title\n" + "".join(f"i{i},film number {i}\n" for i in range(3))
    events = "".join(f"u{u},i{i},{i}\n" for u in range(2) for i in range(3))
    (tmp_path / "items.csv").write_text(items)
    (tmp_path / "interactions.csv").write_text("user_id,item_id,timestamp\n" + events)
    overrides = [f"run_dir={tmp_path}/run", "data.name=files", f"data.path={tmp_path}"]
    overrides += ['data.text_fields=["title"]', "data.text_vocab_size=300", "eval.max_k=10"]
    return load_config(None, [*overrides, "tokenizer.codebook_size=2"])


def open_again(config, resume=True, overwrite=False):
    """Opens the run and gives its lock back at once."""
    data = read_run_data(config, begin_or_resume(config, resume, overwrite))
    data.directory.close()
    return data


def test_what_reading_found_is_printed(config, tmp_path, capsys):
    (tmp_path / "items.csv").write_text(
        'item_id,title\ni0,\ni1,"two\nlines"\ni2,a\x01b\n', encoding="utf-8"
    )
    with (tmp_path / "interactions.csv").open("a") as file:
        file.write("rare,i0,1\n")
    open_again(config)
    assert capsys.readouterr().out.splitlines()[:4] == [
        "read 3 items and 7 events of 3 users",
        "dropped 1 users with fewer than 3 events",
        "1 of 3 items have no title",
        "control characters, replaced by spaces: 1",
    ]


def test_doubtful_quotes_are_printed(config, tmp_path, capsys):
    text = 'item_id,title\ni0,"x\ni9,y"\ni1,a\ni2,b\n'
    (tmp_path / "items.csv").write_text(text)
    open_again(config)
    assert "items.csv line 2: a quoted field holds a line break" in capsys.readouterr().out


def test_a_run_needs_nothing_but_itself(config, tmp_path):
    begun = open_again(config)
    (tmp_path / "items.csv").unlink()
    (tmp_path / "interactions.csv").unlink()
    assert open_again(config).catalog == begun.catalog


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("interactions.csv", "interactions.csv: changed since the run began"),
        ("run/histories.npz", "histories.npz: changed or damaged"),
        ("run/items.jsonl", "items.jsonl: changed or damaged"),
        ("run/texts.tokens/tokens.bin", "tokens.bin: changed or damaged"),
        ("run/train.tokens/offsets.npy", "offsets.npy: changed or damaged"),
        ("run/text.model", "text.model: changed or damaged"),
        ("run/config.toml", "config.toml: changed or damaged"),
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


def test_data_that_moved_is_welcome_and_compared(config, tmp_path):
    open_again(config)
    (tmp_path / "moved").mkdir()
    for name in ("items.csv", "interactions.csv"):
        (tmp_path / name).rename(tmp_path / "moved" / name)
    moved = dataclasses.replace(config.data, path=str(tmp_path / "moved"))
    config = dataclasses.replace(config, data=moved)
    open_again(config)
    assert load_config(tmp_path / "run" / "config.toml").data.path == str(tmp_path / "moved")
    with (tmp_path / "moved" / "items.csv").open("a") as file:
        file.write("new,film\n")
    with pytest.raises(InputError, match=r"moved/items\.csv: changed since the run began"):
        open_again(config)


@pytest.mark.parametrize("name", ["model.safetensors", "sids.npz", "metrics.json"])
def test_what_a_later_stage_made_can_be_made_again(name, config, tmp_path):
    directory = begin_or_resume(config, resume=True, overwrite=False)
    with directory:
        with directory.writing(tmp_path / "run" / name):
            (tmp_path / "run" / name).write_bytes(b"made")
            assert not directory.is_complete(tmp_path / "run" / name)
        assert directory.is_complete(tmp_path / "run" / name)
    (tmp_path / "run" / name).write_bytes(b"bade")
    with pytest.raises(InputError, match=f"{name}: changed or damaged.*remove it, and --resume"):
        open_again(config)
    (tmp_path / "run" / name).unlink()
    assert not open_again(config).directory.is_complete(tmp_path / "run" / name)


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", r"run\.json: not valid JSON"), ("[]", r"run\.json: must hold a JSON object")],
    ids=["json", "list"],
)
def test_a_damaged_manifest_is_refused(text, message, config, tmp_path):
    open_again(config)
    (tmp_path / "run" / "run.json").write_text(text)
    with pytest.raises(InputError, match=message):
        open_again(config)


def test_changed_data_begins_anew_when_asked(config, tmp_path):
    open_again(config)
    with (tmp_path / "interactions.csv").open("a") as file:
        file.write("u0,i0,9\n")
    assert open_again(config, resume=False, overwrite=True).train.tokens.tolist() == [0, 1, 0]
    assert json.loads((tmp_path / "run" / "run.json").read_text())["files"].keys() >= {
        "items.jsonl", "histories.npz", "text.model", "config.toml", "train.tokens/tokens.bin",
    }  # fmt: skip
    assert names(tmp_path) == ["interactions.csv", "items.csv", "run"]


def names(folder):
    """What is in a folder, beside the process group's file."""
    return sorted(path.name for path in folder.iterdir() if path.name != "store")


def test_bad_data_leaves_the_old_run(config, tmp_path):
    begun = open_again(config)
    (tmp_path / "items.csv").write_text("item_id,title\n")
    with pytest.raises(InputError, match=r"items\.csv"):
        open_again(config, resume=False, overwrite=True)
    (tmp_path / "items.csv").unlink()
    (tmp_path / "interactions.csv").unlink()
    assert open_again(config).catalog == begun.catalog
    assert names(tmp_path) == ["run"]


@pytest.mark.parametrize(
    ("change", "is_taken"),
    [
        ({"train": {"threads": 2, "save_every": 7, "tensorboard": True}}, True),
        ({"decoding": {"beam_width": 77, "batch_size": 3, "normalize": "children"}}, True),
        ({"eval": {"max_k": 5}}, True),
        ({"data": {"min_events": 4}}, False),
        ({"model": {"dropout": 0.2}}, False),
        ({"train": {"seed": 1}}, False),
        ({"recommender": {"lr": 0.1}}, False),
    ],
    ids=str,
)
def test_run_time_keys_may_change_and_identity_may_not(change, is_taken, config, tmp_path):
    open_again(config)
    ((section, values),) = change.items()
    changed = dataclasses.replace(getattr(config, section), **values)
    config = dataclasses.replace(config, **{section: changed})
    if is_taken:
        open_again(config)
        written = getattr(load_config(tmp_path / "run" / "config.toml"), section)
        if section == "decoding":  # a run has decided what its config left to the data
            changed = dataclasses.replace(changed, exclude_history=True)
        assert written == changed
        open_again(config)
    else:
        with pytest.raises(InputError, match=f"run: was begun with {section}.{next(iter(values))}"):
            open_again(config)


def test_a_second_trainer_is_refused(config):
    with begin_or_resume(config, resume=True, overwrite=False):
        for how in ({"resume": True}, {"resume": False, "overwrite": True}):
            with pytest.raises(InputError, match=r"run: in use by process \d+ on "):
                open_again(config, **how)
    open_again(config)


def test_a_run_is_never_overwritten_unasked(config):
    open_again(config)
    with pytest.raises(InputError, match="there is a run already; --resume goes on with it"):
        open_again(config, resume=False)


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda run: run.write_text("a file"), "run: cannot be written: Not a directory"),
        (lambda run: (run / "thesis").mkdir(parents=True), "run: is no run, and is not empty"),
        (lambda run: run.symlink_to(run), "run: cannot be used"),
        (os.mkfifo, "run: cannot be written: Not a directory"),
    ],
    ids=["file", "somebody's folder", "loop", "fifo"],
)
def test_a_place_that_is_taken_is_refused_and_left_as_it_is(
    make, message, overwrite, config, tmp_path
):
    make(tmp_path / "run")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=message):
        open_again(config, resume=False, overwrite=overwrite)
    assert sorted(tmp_path.rglob("*")) == before


def test_files_of_the_user_in_a_run_are_not_overwritten(config, tmp_path):
    open_again(config)
    (tmp_path / "run" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"notes\.txt is not part of a run"):
        open_again(config, resume=False, overwrite=True)
    assert (tmp_path / "run" / "notes.txt").read_text() == "mine"
    open_again(config)


@pytest.mark.parametrize("place", [".", "..", "../.."])
def test_the_current_directory_is_not_replaced(place, config, tmp_path, monkeypatch):
    here = tmp_path / "a" / "b"
    here.mkdir(parents=True)
    monkeypatch.chdir(here)
    with pytest.raises(InputError, match=r"cannot begin in the current directory|is not empty"):
        open_again(dataclasses.replace(config, run_dir=place))
    assert list(here.iterdir()) == []


def test_an_empty_folder_and_a_link_to_a_folder_take_a_run(config, tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").symlink_to("disk")
    open_again(config)
    assert (tmp_path / "disk" / "run.json").exists()
    open_again(config, resume=False, overwrite=True)
    assert (tmp_path / "run").is_symlink()
    open_again(config)
    assert names(tmp_path) == ["disk", "interactions.csv", "items.csv", "run"]


def test_resuming_in_the_run_itself(config, tmp_path, monkeypatch):
    open_again(config)
    monkeypatch.chdir(tmp_path / "run")
    open_again(dataclasses.replace(config, run_dir="."))


def test_what_reading_the_data_found_is_printed(config, tmp_path, capsys):
    with (tmp_path / "items.csv").open("a") as file:
        file.write("i3,\n")
    with (tmp_path / "interactions.csv").open("a") as file:
        file.write("u2,i0,0\n")
    open_again(config)
    lines = capsys.readouterr().out.splitlines()
    assert "read 4 items and 7 events of 3 users" in lines
    assert "dropped 1 users with fewer than 3 events" in lines
    assert "1 of 4 items have no title" in lines


@pytest.mark.parametrize(
    ("asked", "rows", "want"),
    [
        ("auto", [0, 1, 2, 3, 4, 5], True),
        ("auto", [0, 1, 0, 3, 0, 5], False),
        (False, [0, 1, 2, 3, 4, 5], False),
        (True, [0, 0, 0, 0, 0, 0], True),
    ],
)
def test_seen_items_are_left_out_where_hardly_anybody_comes_back(asked, rows, want, capsys):
    train = Histories(("u", "v"), np.array(rows, dtype=np.int32), np.array([0, 3, 6]))
    config = Config(decoding=DecodingConfig(exclude_history=asked))
    assert decide(config, train).decoding.exclude_history is want
    said = capsys.readouterr().out
    assert ("decoding.exclude_history = " in said) == (asked == "auto")
