"""A run with a journal, and the run that goes on from it."""

import json

import pytest
from live_runs import make_run

from store_engine import Engine
from store_engine.errors import InputError
from store_engine.files.digest import text_sha256
from store_engine.live.journal import Journal
from store_engine.live.since_training import changes_since_training, remove_again
from store_engine.runs.continued import LaterChanges, NewData, Parent
from store_engine.runs.open_run import begin_or_resume
from store_engine.runs.run import Run
from store_engine.runs.run_directory import RunDirectory

pytestmark = pytest.mark.usefixtures("process_group")


@pytest.fixture
def run_dir(tmp_path):
    return make_run(tmp_path / "run")


def change(run_dir, *acts):
    engine = Engine.load(run_dir)
    for act in acts:
        act(engine)
    engine.close()


def go_on(run_dir, *overrides, new=NewData(journal=True)):  # noqa: B008 - a tuple
    """Begins the next run; it, without its lock."""
    parent = Parent(run_dir, new, changes_since_training(run_dir))
    place = run_dir.parent / "next"
    config = parent.config([], [f"run_dir={place}", *overrides])
    begin_or_resume(config, False, False, parent).close()
    return Run(RunDirectory.open(place))


def test_a_run_without_a_journal(run_dir):
    assert changes_since_training(run_dir) == LaterChanges()
    assert not (run_dir / "journal.db").exists()


def test_what_has_changed(run_dir):
    change(
        run_dir,
        lambda e: e.add_events([("zoe", "item 2", 9.0), ("zoe", "item 1", 3.0)]),
        lambda e: e.add_events([("zoe", "item 4", 9.0), ("max", "item 5", 1.0)]),
        lambda e: e.add_items({"new": {"title": "violet lamp"}, "gone": {"title": "lamp"}}),
        lambda e: e.remove_items(["item 3", "gone"]),
        lambda e: e.forget_user("max"),
    )
    assert changes_since_training(run_dir) == LaterChanges(
        (("zoe", "item 1"), ("zoe", "item 2"), ("zoe", "item 4")),
        ("gone", "item 3"),
        frozenset([text_sha256("max")]),
        ("new",),
    )


def test_the_journals_events_come_behind_the_runs_own(run_dir, capsys):
    events = [("zoe", f"item {i}", float(-i)) for i in range(3)] + [("ben", "item 7", 0.0)]
    change(run_dir, lambda e: e.add_events(events))
    run = go_on(run_dir)
    found = {user: run.histories[n].tolist() for n, user in enumerate(run.histories.user_ids)}
    assert found["ben"] == [*range(20, 40), 7]
    assert found["zoe"] == [2, 1, 0]
    assert "+1 users, +4 events" in capsys.readouterr().out


def test_a_notice_says_what_is_not_taken(run_dir, capsys):
    change(
        run_dir,
        lambda e: e.add_events([("zoe", "item 2", 9.0)]),
        lambda e: e.add_items({"new": {"title": "violet lamp"}}),
    )
    go_on(run_dir, new=NewData())
    out = capsys.readouterr().out
    assert "1 events since the training are not taken: --journal takes them" in out
    assert "1 items that came or whose text changed are not taken: `store-engine compact`" in out
    assert "+0 users, +0 events" in out


def test_removed_items_stay_removed(run_dir, capsys):
    change(
        run_dir,
        lambda e: e.add_items({"short-lived": {"title": "violet lamp"}}),
        lambda e: e.remove_items(["item 3", "item 8", "short-lived"]),
    )
    run = go_on(run_dir)
    assert "2 items that were removed stay removed" in capsys.readouterr().out
    assert run.catalog.num_items == 60  # histories name them
    with RunDirectory.open_to_write(run.directory.root) as directory:
        with directory.writing(directory.sids):  # as the training leaves it
            (run_dir / "sids.npz").replace(directory.sids)
        remove_again(directory)
        remove_again(directory)  # resumed
        assert directory.lock_held is not None
    changes = list(Journal.open(run.directory.root).changes())
    assert [change.what.item_ids for change in changes] == [("item 3", "item 8")]


def test_what_the_shop_lists_again_is_there_again(run_dir, tmp_path):
    change(run_dir, lambda e: e.remove_items(["item 3", "item 8"]))
    (tmp_path / "items.csv").write_text("item_id,title,brand\nitem 3,red table,b\nx,red vase,b\n")
    run = go_on(run_dir, new=NewData(str(tmp_path / "items.csv"), journal=True))
    assert json.loads(run.directory.start_removed.read_text()) == {"item_ids": ["item 8"]}


def test_forgotten_users_do_not_come_back_with_an_old_export(run_dir, tmp_path, capsys):
    change(run_dir, lambda e: e.forget_user("ben"))
    items = "".join(f"item {i},thing {i},b\n" for i in range(60))
    events = "".join(f"{user},item {i},{i}\n" for user in ("anna", "ben") for i in range(5))
    (tmp_path / "items.csv").write_text("item_id,title,brand\n" + items)
    (tmp_path / "interactions.csv").write_text("user_id,item_id,timestamp\n" + events)
    where = ("data.name=files", f"data.path={tmp_path}")
    run = go_on(run_dir, *where, new=NewData())
    assert run.histories.user_ids == ("anna",)
    assert f"left out 1 users whom {run_dir} was told to forget" in capsys.readouterr().out


def test_the_journal_and_all_data_are_one_too_many(run_dir, tmp_path):
    with pytest.raises(InputError, match="--data names all data of today"):
        go_on(run_dir, f"data.path={tmp_path}")
