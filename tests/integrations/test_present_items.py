import json

import pytest
from live_runs import answers, make_run

from store_engine import Engine, InputError, ItemTrie, load_run
from store_engine.integrations.export_run import export_run
from store_engine.integrations.import_run import import_run

pytest.importorskip("transformers")
GONE = ("item 3", "item 40", "item 59")


def change(run, act):
    engine = Engine.load(run)
    act(engine)
    engine.close()


@pytest.mark.parametrize("is_compacted", [False, True])
@pytest.mark.parametrize("rule", ["suffix", "share", "item"])
def test_removed_items_stay_at_home(tmp_path, rule, is_compacted):
    run = make_run(tmp_path / "run", rule)
    change(run, lambda engine: engine.remove_items(GONE))
    if is_compacted:
        change(run, lambda engine: engine.add_items({"new": {"title": "a violet lamp"}}))
        change(run, lambda engine: engine.compact())
    exported = export_run(load_run(run), tmp_path / "out")
    assert (exported.num_items, exported.num_removed) == (57 + is_compacted, 3)
    listed = json.loads((tmp_path / "out" / "sids.json").read_text())
    assert (
        len(listed)
        == ItemTrie.load(str(tmp_path / "out" / "trie.bin")).num_items
        == 57 + is_compacted
    )
    text = (tmp_path / "out" / "store_engine" / "items.jsonl").read_text()
    assert not any(f'"{item}"' in text for item in GONE) and ("new" in listed) == is_compacted
    import_run(tmp_path / "out", tmp_path / "back")
    history = ["item 5", "item 7"]
    ours = Engine.load(run).recommend([history], 57, beam_width=60, exclude_history=False)[0]
    theirs = Engine.load(tmp_path / "back").recommend(
        [history], 57, beam_width=60, exclude_history=False
    )[0]
    assert [one.item_id for one in theirs] == [one.item_id for one in ours]
    if rule != "item":  # there a softmax over the items of a cluster has fewer of them now
        assert [one.score for one in theirs] == pytest.approx([one.score for one in ours], abs=1e-4)


def test_items_that_the_files_lack_are_refused(tmp_path):
    run = make_run(tmp_path / "run")
    change(run, lambda engine: engine.add_items({"new": {"title": "a violet lamp"}}))
    with pytest.raises(InputError, match="`store-engine compact` makes them a part of the run"):
        export_run(load_run(run), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_events_alone_change_nothing(tmp_path):
    run = make_run(tmp_path / "run")
    before = answers(Engine.load(run))
    change(run, lambda engine: engine.add_events([("zoe", "item 1", 1.0)]))
    assert export_run(load_run(run), tmp_path / "out").num_removed == 0
    import_run(tmp_path / "out", tmp_path / "back")
    assert answers(Engine.load(tmp_path / "back")) == before
