"""The owner of the catalogue and the replicas that follow it, without Ray."""

import random

import pytest

pytest.importorskip("pydantic", reason="pip install 'store-engine[serve]'")

from live_runs import answers, make_run

from store_engine.decoding.engine import Engine
from store_engine.errors import InputError
from store_engine.serving.owner import BEFORE_ALL, CatalogOwner
from store_engine.serving.service import EngineService, Query


def text(title):
    return {"title": title, "brand": "brand 1"}


def replica(root, name="run"):
    return EngineService(Engine.load(root / name, journal=False), name)


def ranked(service, k=100):
    (found,) = service.answer([Query(history=("item 3",), k=k, beam_width=200)])
    return [(item, round(score, 3)) for item, score, _ in found.items]


@pytest.fixture
def owner(tmp_path):
    make_run(tmp_path / "run")
    owner = CatalogOwner(tmp_path / "run")
    yield owner
    owner.close()


def test_a_replica_that_follows_is_the_owner_again(owner, tmp_path):
    early = replica(tmp_path)
    early.apply(owner.since(BEFORE_ALL))
    assert early.sequence == 0
    rng = random.Random(0)
    there = [f"item {i}" for i in range(60)]
    for number in range(12):
        if number % 4 == 1:
            changed = owner.update([(one := rng.choice(there), text(f"blue thing {number}"))])
            assert list(changed.sids) == [one]
        elif number % 4 == 2:
            there.remove(gone := rng.choice(there))
            changed = owner.remove([gone])
        elif number % 4 == 3:
            events = [("anna", rng.choice(there), float(number)), ("dora", "nobody's", 1.0)]
            changed = owner.add_events(events, "skip")
            assert changed.num_skipped == 1
        else:
            there.append(f"new {number}")
            changed = owner.add([(there[-1], text(f"green thing {number}"))])
            assert list(changed.sids) == [there[-1]]
        assert changed.sequence == number + 1
        if number % 2:
            early.apply(owner.since(early.sequence))
            assert early.sequence == number + 1
    late = replica(tmp_path)
    late.apply(owner.since(BEFORE_ALL))
    truth = answers(owner.engine)
    for service in (early, late):
        assert service.sequence == owner.sequence == 12
        assert answers(service._engine) == truth
        assert service._engine.history_of("anna") == owner.engine.history_of("anna")
    assert {item for item, _ in ranked(late)} == set(there)


def test_an_unusual_text_is_remarked_on(owner):
    changed = owner.add([("a", text("quite another kind of text " * 20))])
    assert any("unlike what training saw" in remark for remark in changed.remarks)


def test_changes_come_in_order_or_not_at_all(owner, tmp_path):
    service = replica(tmp_path)
    with pytest.raises(ValueError, match="after 0 came to an engine at -1"):
        service.apply(owner.since(0))
    service.apply(owner.since(BEFORE_ALL))
    owner.remove(["item 1"])
    letter = owner.since(0)
    service.apply(letter)
    with pytest.raises(ValueError, match="after 0 came to an engine at 1"):
        service.apply(letter)
    assert owner.since(1).changes == []


def test_what_is_refused_changes_nothing(owner):
    before = answers(owner.engine)
    for act in (
        lambda: owner.add([("item 1", text("again"))]),
        lambda: owner.add([("a", text("x")), ("a", text("y"))]),
        lambda: owner.add([("a", {"colour": "red"})]),
        lambda: owner.add([("a", text("x")), ("item 2", text("y"))]),
        lambda: owner.update([("nobody", text("x"))]),
        lambda: owner.update([("item 1", text("x")), ("item 1", text("y"))]),
        lambda: owner.add_events([("anna", "item 1", 1.0), ("anna", "nobody", 2.0)], "error"),
        lambda: owner.remove(["nobody"]),
        lambda: owner.remove(["item 1", "item 1"]),
        lambda: owner.remove([f"item {i}" for i in range(60)]),
    ):
        with pytest.raises(InputError):
            act()
    assert (owner.sequence, answers(owner.engine)) == (0, before)


def test_a_run_has_one_owner(owner, tmp_path):
    with pytest.raises(InputError, match="in use by process"):
        CatalogOwner(tmp_path / "run")
    owner.remove(["item 1"])
    owner.close()
    again = CatalogOwner(tmp_path / "run")
    assert (again.sequence, again.engine.has_items(["item 1"])) == (1, [False])
    again.close()


@pytest.mark.parametrize("rule", ["suffix", "item"])
def test_a_new_run_takes_over_what_changed(owner, tmp_path, rule):
    for name in ("new 1", "new 2", "new 3", "new 4"):
        owner.add([(name, text(f"red {name}"))])
    owner.remove(["new 2", "item 5", "item 6"])
    owner.add([("item 6", text("back again"))])
    make_run(tmp_path / "newer", rule)
    ahead = Engine.load(tmp_path / "newer")
    ahead.add_items({"new 3": text("known already")})
    ahead.remove_items(["item 7"])
    ahead.close()

    newer = CatalogOwner(tmp_path / "newer")
    newer.take_over(owner)
    names = ["new 1", "new 2", "new 3", "new 4", "item 5", "item 6", "item 7"]
    want = [True, False, True, True, False, True, False]
    assert newer.engine.has_items(names) == want
    sequence = newer.sequence
    newer.take_over(owner)  # there is nothing left to do
    assert newer.sequence == sequence
    newer.close()
    assert Engine.load(tmp_path / "newer").has_items(names) == want


def test_a_new_run_takes_over_texts_and_events(owner, tmp_path):
    owner.update([("item 1", text("blue whale")), ("item 2", text("red fox"))])
    owner.update([("item 3", text("grey owl"))])
    owner.remove(["item 3"])
    known = [("anna", "item 40", 1.0), ("anna", "item 41", 3.0)]  # to the new run too
    late = [("anna", "item 41", 4.0), ("anna", "item 42", 2.0), ("dora", "item 3", 5.0)]
    owner.add_events(known + late, "error")
    make_run(tmp_path / "newer")
    ahead = Engine.load(tmp_path / "newer")
    ahead.update_items({"item 2": text("red fox")})
    ahead.add_events(known)
    ahead.close()

    newer = CatalogOwner(tmp_path / "newer")
    newer.take_over(owner)
    titles = newer.engine.catalog.fields["title"]
    rows = [newer.engine.catalog.row_of(f"item {i}") for i in (1, 2)]
    assert [titles[row] for row in rows] == ["blue whale", "red fox"]
    assert newer.engine.has_items(["item 3"]) == [False]
    for user in ("anna", "ben", "dora"):
        assert newer.engine.history_of(user) == owner.engine.history_of(user)
    sequence = newer.sequence
    newer.take_over(owner)  # there is nothing left to do
    assert newer.sequence == sequence
    newer.close()


def test_many_changes_come_in_several_letters(owner, tmp_path, monkeypatch):
    monkeypatch.setattr("store_engine.serving.owner._CHANGES_PER_LETTER", 2)
    service = replica(tmp_path)
    service.apply(owner.since(BEFORE_ALL))
    for i in range(5):
        owner.remove([f"item {i}"])
    steps = []
    while service.sequence < owner.sequence:
        service.apply(owner.since(service.sequence))
        steps.append(service.sequence)
    assert steps == [2, 4, 5]
    assert not {f"item {i}" for i in range(5)} & {item for item, _ in ranked(service)}
