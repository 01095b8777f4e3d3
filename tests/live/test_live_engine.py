"""An engine's changes: made by text, on the disk before they are seen, there after a restart."""

import resource
import shutil
import warnings

import numpy as np
import pytest
from live_runs import answers, catalog, make_run

from store_engine import Catalog, Engine, InputError
from store_engine.files.token_file import TokenFile
from store_engine.live.live_run import LiveRun
from store_engine.runs.inspect_run import inspect_run
from store_engine.runs.run import load_run

RULES = ("suffix", "reassign", "share", "item")
NEW = {
    "new 1": {"title": "purple lamp", "brand": "brand 3"},
    "new 2": {"title": "<b>blue</b> &amp; grey vase"},
    "new 3": {"title": "red chair", "brand": "brand 9"},
}


@pytest.fixture(params=RULES)
def run(request, tmp_path):
    return make_run(tmp_path / "run", request.param)


@pytest.fixture(autouse=True)
def quiet():
    """Texts of a toy are often unusual."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def change(engine):
    """Every kind of change, some of them twice."""
    added = engine.add_items(NEW)
    engine.remove_items(["item 5", "new 2"])
    engine.add_items(
        {"new 2": {"title": "a vase again"}, "item 5": {"title": "back", "brand": "x"}}
    )
    engine.update_items(
        {"item 7": {"title": "green sofa", "brand": "brand 1"}, "new 1": {"title": "rug"}}
    )
    engine.remove_items(["item 9", "new 3"])
    engine.add_events([("anna", "new 1", 5.0), ("zoe", "item 7", 1), ("anna", "item 9", 4.0)])
    return added


def state(engine):
    """All that a user sees: SIDs of what is there, texts, histories, answers."""
    ids, present = engine.catalog.item_ids, engine._items.present().tolist()
    sids = {ids[row]: tuple(engine.sids[row].tolist()) for row in present}
    texts = dict(zip(ids, zip(*engine.catalog.fields.values(), strict=True), strict=True))
    users = {user: engine.history_of(user) for user in ("anna", "ben", "zoe")}
    return sids, texts, users, engine.trie.num_items, answers(engine)


def test_texts_get_sids_by_the_rule_of_the_run(run):
    engine = Engine.load(run)
    added = engine.add_items(NEW)
    assert list(added) == list(NEW)
    assert engine.catalog.fields["title"][61] == "blue & grey vase"
    assert engine.catalog.fields["brand"][61] == ""
    sids = [tuple(sid) for sid in engine.sids.tolist()]
    assert [sids[60 + n] for n in range(3)] == list(added.values())
    share = engine._live._run.config.tokenizer.collisions == "share"
    assert share == (len(set(sids)) < len(sids))
    assert all(found.keys() == set(engine.catalog.item_ids) for found in answers(engine))


def test_changes_are_there_after_a_restart(run):
    engine = Engine.load(run)
    change(engine)
    expected = state(engine)
    assert expected[2]["anna"][-2:] == ["item 9", "new 1"]
    assert expected[2]["zoe"] == ["item 7"]
    again = Engine.load(run)
    assert state(again) == expected
    assert again.sequence == engine.sequence == 6
    plain = Engine.load(run, journal=False)
    assert plain.trie.num_items == 60
    plain.remove_items(["item 1"])  # in memory alone
    assert Engine.load(run).sequence == 6


def test_a_follower_shows_what_the_owner_wrote(run):
    owner, follower = Engine.load(run), Engine.load(run)
    change(owner)
    assert follower.trie.num_items == 60
    assert follower.follow() == 6
    assert follower.follow() == 0
    assert state(follower) == state(owner)
    with pytest.raises(InputError, match="in use by process"):
        follower.remove_items(["item 1"])
    owner.close()
    follower.remove_items(["item 1"])
    with pytest.raises(InputError, match="in use by process"):
        owner.remove_items(["item 2"])
    follower.close()
    owner.remove_items(["item 2"])
    with pytest.raises(InputError, match="removed already"):
        owner.remove_items(["item 1"])


def test_compacting_changes_no_answer_and_the_run_is_whole(run):
    engine, follower = Engine.load(run), Engine.load(run)
    change(engine)
    follower.follow()
    expected = state(engine)
    engine.compact()
    assert inspect_run(run, verify=True).not_whole == []
    assert state(engine) == expected
    compact = load_run(run)
    assert compact.catalog.num_items == 63
    # the recommender before the refit has the new items too; here it is the same one
    before, now = compact.training_model.state_dict(), compact.model.state_dict()
    assert all((before[name] == now[name]).all() for name in now)
    again = Engine.load(run)
    assert state(again) == expected
    assert follower.follow() == 0  # it had all of it
    engine.add_items({"later": {"title": "lamp"}})
    assert again.follow() == follower.follow() == 1
    assert state(follower) == state(again) == state(engine)
    engine.compact()
    engine.compact()
    assert state(Engine.load(run)) == state(engine)
    assert inspect_run(run, verify=True).not_whole == []


def test_a_follower_that_lags_behind_a_compaction_says_so(run):
    engine, follower = Engine.load(run), Engine.load(run)
    change(engine)
    engine.compact()
    with pytest.raises(InputError, match="load it again"):
        follower.follow()


def test_a_forgotten_user_is_gone_from_every_file(run):
    engine, follower = Engine.load(run), Engine.load(run)
    change(engine)
    engine.forget_user("anna")
    for one in (engine, Engine.load(run)):
        with pytest.raises(InputError, match="unknown user id 'anna'"):
            one.history_of("anna")
        assert one.history_of("ben") == [f"item {n}" for n in range(20, 40)]
        assert one.history_of("zoe") == ["item 7"]
    follower.follow()
    with pytest.raises(InputError, match="unknown user id 'anna'"):
        follower.history_of("anna")
    for path in run.rglob("*"):
        assert path.is_dir() or b"anna" not in path.read_bytes(), path
    for name in ("train.tokens", "refit.tokens"):
        assert [rows[0] for rows in TokenFile(run / name)] == [20, 40]
    assert inspect_run(run, verify=True).not_whole == []
    engine.add_events([("anna", "item 1", 0)])  # a new customer of that name
    engine.compact()
    assert Engine.load(run).history_of("anna") == ["item 1"]
    engine.forget_user("zoe")
    for change_user in (engine.forget_user, engine.history_of):
        with pytest.raises(InputError, match=r"unknown user id 'zoe'$"):
            change_user("zoe")  # nor is a forgotten user meant
        with pytest.raises(InputError, match="unknown user id 'Anna', did you mean 'anna'"):
            change_user("Anna")


def test_a_change_that_fails_leaves_nothing(run):
    engine = Engine.load(run)
    before = state_of_items(engine)
    for bad, message in [
        ({"item 1": {"title": "x"}}, "in the catalogue already"),
        ({"a": {"colour": "x"}}, "unknown field 'colour'"),
        ({"": {"title": "x"}}, "must not be empty"),
        ({"a": {"title": "\ud800"}, "b": {"title": object()}}, "no text"),
    ]:
        with pytest.raises(InputError, match=message):
            engine.add_items(bad)
    with pytest.raises(TypeError, match="must map fields"):
        engine.add_items({"a": "a title"})
    with pytest.raises(TypeError, match="map item ids"):
        engine.add_items(["a title"])
    with pytest.raises(InputError, match="unknown item id 'nobody'"):
        engine.update_items({"nobody": {"title": "x"}})
    with pytest.raises(InputError, match=r"events\[1\]: unknown item id"):
        engine.add_events([("u", "item 1", 0), ("u", "nobody", 0)])
    assert state_of_items(engine) == before
    assert engine.sequence == 0
    assert Engine.load(run).sequence == 0


def state_of_items(engine):
    return engine.catalog, engine.sids.tolist(), answers(engine)


def test_what_was_written_and_not_shown_is_shown_with_the_next_change(run, monkeypatch):
    engine = Engine.load(run)
    view = engine._items.view
    append = type(engine._live.journal).append

    def cut(self, what):
        append(self, what)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(type(engine._live.journal), "append", cut)
        with pytest.raises(KeyboardInterrupt):
            engine.add_items(NEW)
    assert engine._items.view is view
    engine.remove_items(["new 1"])
    assert engine.sequence == 2
    assert engine.trie.num_items == 62
    assert state_of_items(Engine.load(run)) == state_of_items(engine)


def test_an_unchanged_text_keeps_its_sid(run):
    engine = Engine.load(run)
    items = catalog()
    texts = {
        i: {"title": t, "brand": b}
        for i, t, b in zip(items.item_ids, *items.fields.values(), strict=True)
    }
    before = engine.sids.tolist()
    updated = engine.update_items(texts)
    kept = [list(updated[i]) == sid for i, sid in zip(items.item_ids, before, strict=True)]
    # what was moved when the run was made is moved back if there is room
    assert np.mean(kept) > (
        0.5 if engine._live._run.config.tokenizer.collisions == "reassign" else 0.85
    )


def test_sids_of_your_own_are_taken_in_any_form(tmp_path):
    engine = Engine.load(make_run(tmp_path / "run"))
    items = Catalog(("a", "b"), {"title": ("x", "y"), "brand": ("", "")})
    assert engine.add_items(items, [[0, 1, 0], [3, 3, 1]]) == {"a": (0, 1, 0), "b": (3, 3, 1)}
    with pytest.raises(InputError, match=r"sids must be \(num_items, num_levels\)"):
        engine.add_items(Catalog(("c",), {"title": ("x",), "brand": ("",)}), [[0, 1]])
    with pytest.raises(TypeError, match="with SIDs, items must be a Catalog"):
        engine.add_items({"c": {"title": "x"}}, [[0, 1, 0]])
    assert Engine.load(tmp_path / "run").catalog.item_ids[-2:] == ("a", "b")


def test_recommends_by_user_and_skips_what_is_unknown(tmp_path):
    engine = Engine.load(make_run(tmp_path / "run"))
    engine.add_events([("ben", "item 1", 0), ("eve", "item 2", 0)])
    history = [f"item {n}" for n in range(20, 40)] + ["item 1"]
    assert engine.recommend(users=["ben", "eve"]) == engine.recommend([history, ["item 2"]])
    with pytest.raises(InputError, match="unknown user id 'nobody'"):
        engine.recommend(users=["nobody"])
    assert engine.recommend(users=["nobody"], unknown="skip") == engine.recommend([[]])
    assert engine.num_skipped == 1
    found = engine.recommend([["item 2", "gone", "x"]], 5, exclude=[["nope"]], unknown="skip")
    assert found == engine.recommend([["item 2"]], 5)
    assert engine.num_skipped == 3
    assert engine.add_events([("eve", "gone", 0), ("eve", "item 3", 1)], unknown="skip") == 1
    assert engine.history_of("eve") == ["item 2", "item 3"]
    with pytest.raises(InputError, match="unknown must be 'error' or 'skip'"):
        engine.recommend([[]], unknown="drop")
    for wrong in ({}, {"histories": [[]], "users": ["ben"]}):
        with pytest.raises(TypeError, match="either histories or users"):
            engine.recommend(**wrong)
    with pytest.raises(TypeError, match="users must be a list"):
        engine.recommend(users="ben")


@pytest.mark.parametrize(
    ("events", "error", "message"),
    [
        ("abc", TypeError, "must be a list of"),
        ([("u", "item 1")], TypeError, r"events\[0\] must be"),
        (["uit"], TypeError, r"events\[0\] must be"),
        ([("u", 1, 0)], TypeError, "the item id is text"),
        ([(1, "item 1", 0)], TypeError, "the user id is text"),
        ([("", "item 1", 0)], InputError, "must not be empty"),
        ([("u", "item 1", float("nan"))], InputError, "must be finite"),
        ([("u", "item 1", 10**400)], InputError, "must be finite"),
        ([("u", "item 1", "now")], TypeError, "a time is a number"),
        ([("u", "item 1", True)], TypeError, "a time is a number"),
        ([("\ud800", "item 1", 0)], InputError, "surrogate"),
    ],
)
def test_refuses_events(events, error, message, tmp_path):
    engine = Engine.load(make_run(tmp_path / "run"))
    with pytest.raises(error, match=message):
        engine.add_events(events)


def test_an_engine_of_parts_changes_in_memory_and_cannot_read_texts(make_engine):
    engine = make_engine()
    engine.remove_items(["item 1"])
    with pytest.raises(InputError, match="only an engine that was loaded from a run"):
        engine.add_items({"a": {"title": "x"}})
    for act in (engine.compact, lambda: engine.forget_user("u")):
        with pytest.raises(InputError, match="only an engine with a journal"):
            act()
    assert isinstance(engine._live, LiveRun)


def test_a_full_disk_changes_nothing(tmp_path):
    engine = Engine.load(make_run(tmp_path / "run"))
    engine.remove_items(["item 1"])
    before = state_of_items(engine)
    texts = {f"new {n}": {"title": "x" * 1000} for n in range(300)}
    sids = [[0, 0, 0]] * 300
    items = Catalog(tuple(texts), {"title": ("x" * 1000,) * 300, "brand": ("",) * 300})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, limits[1]))
    try:
        with pytest.raises(InputError, match=r"journal\.db: cannot be written"):
            engine.add_items(items, sids)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert state_of_items(engine) == before
    assert engine.sequence == 1
    engine.add_items(items, sids)
    assert state_of_items(Engine.load(tmp_path / "run")) == state_of_items(engine)


def test_an_engine_of_a_run_that_was_replaced_cannot_write_there(tmp_path):
    run = make_run(tmp_path / "run")
    engine = Engine.load(run)
    shutil.rmtree(run)
    make_run(tmp_path / "run", "share")
    with pytest.raises(InputError, match="was replaced since it was loaded"):
        engine.remove_items(["item 1"])
    assert Engine.load(run).sequence == 0
    other = Engine.load(run)
    other.remove_items(["item 1"])
    other.close()
    with pytest.raises(InputError, match="of a run with other SIDs"):
        engine.remove_items(["item 1"])
    with pytest.raises(InputError, match="of a run with other SIDs"):
        engine.follow()


def test_with_sids_of_ones_own_items_rows_are_read_off_the_texts(tmp_path):
    new = catalog().take([3, 7])
    new = Catalog(("new 1", "new 2"), new.fields)
    one, other = (
        Engine.load(make_run(tmp_path / name, "item"), journal=False) for name in ("a", "b")
    )
    chosen = one.add_items(new)
    sids = np.array(list(chosen.values()))
    assert other.add_items(new, sids) == chosen
    assert answers(one) == answers(other)
    moved = sids + [[0] * (sids.shape[1] - 1) + [1]] * 2  # a place that is free too
    assert list(other.update_items(new, moved).values()) == list(map(tuple, moved.tolist()))
    assert answers(other)[0].keys() == answers(one)[0].keys()


def test_with_sids_of_ones_own_codes_nothing_is_read(tmp_path):
    run = make_run(tmp_path / "run")
    (run / "tokenizer.safetensors").unlink()  # the weights that read
    engine = Engine.load(run, journal=False)
    sid = engine.sids[3:4]
    engine.remove_items(["item 3"])
    new = Catalog(("new 1",), catalog().take([3]).fields)
    assert engine.add_items(new, sid) == {"new 1": tuple(sid[0].tolist())}
