"""What a change of the live catalogue promises: all or nothing, one view per call, no leaks."""

import gc
import itertools
import linecache
import sys
import threading
import weakref

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from store_engine._C import ItemTrie
from store_engine.catalog import catalog_view, item_sets, item_table, live_catalog, new_items
from store_engine.catalog.live_catalog import LiveCatalog
from store_engine.data.catalog import Catalog
from store_engine.errors import InputError

SIZES = (6, 5, 7)
OFFSETS = torch.tensor([100, 106, 111])
TRACED = {m.__file__ for m in (catalog_view, item_sets, item_table, live_catalog, new_items)}


def catalog_of(*numbers):
    ids = tuple(f"item {n}" for n in numbers)
    return Catalog(ids, {"title": tuple(f"Title {n}" for n in numbers)})


def make_live(num_items=20):
    sids = np.random.default_rng(0).integers(0, SIZES, (num_items, 3)).astype(np.int32)
    return LiveCatalog(catalog_of(*range(num_items)), sids, ItemTrie(sids, list(SIZES)), OFFSETS)


def contents(live):
    """All that a user can see of a catalogue: items, texts, SIDs, rows, sets."""
    view, catalog, sids = live.view, live.catalog, live.sids.tolist()
    assert [live.row_of(item_id) for item_id in catalog.item_ids] == list(range(len(sids)))
    rows = view.rows(view.trie_rows(np.arange(len(sids)))).tolist()
    titles = catalog.fields["title"]
    there = {catalog.item_ids[row]: (titles[row], tuple(sids[row])) for row in rows}
    compacted = view.compacted
    assert view.trie.num_items == len(there) == compacted.trie.num_items
    assert compacted.rows(np.arange(len(there))).tolist() == sorted(rows)
    named = {}
    for name in view.sets.definitions:
        trie_rows = view.sets.resolve(f'"{name}"', None).rows()
        named[name] = sorted(catalog.item_ids[row] for row in view.rows(trie_rows))
    return there, named, catalog.item_ids


def leaves(live):
    """SID -> items, as the core's trie has them."""
    view, sids = live.view.compacted, live.sids
    offsets, rows = view.trie.item_trie.leaf_rows(np.arange(view.trie.level_sizes[-1]))
    rows = view.rows(rows)
    firsts = torch.from_numpy(sids[rows[offsets[:-1]]]).long()
    assert view.trie.find(firsts).tolist() == list(range(len(firsts)))
    parts = np.split(rows, offsets[1:-1])
    return {
        tuple(sid): [live.item_id(row) for row in part]
        for sid, part in zip(firsts.tolist(), parts, strict=True)
    }


SIDS = {
    "one": np.array([[1, 2, 3]], dtype=np.int32),
    "two": np.array([[5, 4, 6], [0, 0, 0]], dtype=np.int32),
}
CHANGES = {
    "first add": lambda live: live.add(catalog_of(100), SIDS["one"]),
    "add and return": lambda live: live.add(catalog_of(101, 3), SIDS["two"]),
    "remove": lambda live: live.remove(["item 7", "item 8"]),
    "define": lambda live: live.define("stock", ["item 1", "item 2"]),
    "redefine": lambda live: live.define("old", ["item 5"]),
}


def prepared(num_changes):
    """A catalogue after some changes: never changed, or live already."""
    live = make_live()
    live.define("old", ["item 3", "item 4"])
    if num_changes:
        live.remove(["item 3"])
        live.add(catalog_of(50), SIDS["one"])
    return live


def interrupted_at(line, call):
    """Runs `call`, and raises KeyboardInterrupt when it comes to its line number `line`."""
    passed = itertools.count()

    def trace(frame, event, arg):
        if frame.f_code.co_filename not in TRACED:
            return None
        # CPython runs no signal handler between the end of a `with` block and the lock's release
        is_lock = "with self._lock" in linecache.getline(frame.f_code.co_filename, frame.f_lineno)
        if event == "line" and not is_lock and next(passed) == line:
            raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


@pytest.mark.parametrize(
    ("change", "num_changes"),
    [
        pytest.param(change, num_changes, id=f"{name} after {num_changes}")
        for name, change in CHANGES.items()
        for num_changes in (0, 2)
        if (name, num_changes) != ("add and return", 0)  # nothing can return yet
    ],
)
def test_a_change_that_is_cut_short_anywhere(change, num_changes):
    """It has happened in full or not at all, and every later change is right."""
    before = contents(prepared(num_changes))
    changed = prepared(num_changes)
    change(changed)
    after = contents(changed)
    final = catalog_of(200, 201)
    changed.add(final, SIDS["two"])
    changed.remove(["item 9"])
    for line in itertools.count():
        live = prepared(num_changes)
        is_cut = interrupted_at(line, lambda live=live: change(live))
        got = contents(live)
        assert got in (before, after), line
        if got == before:
            change(live)
            assert contents(live) == after, line
        live.add(final, SIDS["two"])
        live.remove(["item 9"])
        assert contents(live) == contents(changed), line
        assert leaves(live) == leaves(changed), line
        if not is_cut:
            break
    assert line > 5


def test_another_change_after_a_cut_one():
    """What a cut change left behind does not come back with other items."""
    reached = set()
    for line in range(200):
        live = prepared(2)
        cut = catalog_of(101, 102)
        if not interrupted_at(line, lambda live=live, cut=cut: live.add(cut, SIDS["two"])):
            break
        before = contents(live)
        if "item 101" in before[0]:
            continue
        reached.add(line)
        live.add(catalog_of(300, 301), SIDS["two"][::-1])
        there, _, ids = contents(live)
        assert ids[-2:] == ("item 300", "item 301")
        assert there["item 300"] == ("Title 300", (0, 0, 0))
        for gone in ("item 101", "item 102"):
            with pytest.raises(InputError, match=f"unknown item id '{gone}'"):
                live.row_of(gone)
        live.add(cut, SIDS["two"])
        assert contents(live)[0]["item 102"] == ("Title 102", (0, 0, 0))
    assert len(reached) > 10


WRONG_SIDS = {
    "float": np.array([[1.0, 2.0, 3.0]]),
    "nan": np.array([[1.0, np.nan, 3.0]]),
    "bool": np.array([[True, False, True]]),
    "object": np.array([[1, 2, None]], dtype=object),
    "text": np.array([["1", "2", "3"]]),
    "huge": np.array([[2**63, 0, 0]], dtype=np.uint64),
    "wraps": np.array([[2**32 + 1, 0, 0]], dtype=np.int64),
    "negative": np.array([[0, -1, 0]], dtype=np.int8),
    "beyond": np.array([[0, 5, 0]], dtype=np.uint8),
    "too many levels": np.zeros((1, 4), np.int32),
    "too few levels": np.zeros((1, 2), np.int32),
    "flat": np.zeros(3, np.int32),
    "too many items": np.zeros((2, 3), np.int32),
    "ragged": [[1, 2], [3]],
    "None": None,
    "datetime": np.zeros((1, 3), dtype="datetime64[s]"),
}


@pytest.mark.parametrize("sids", WRONG_SIDS.values(), ids=WRONG_SIDS)
def test_wrong_codes_change_nothing(sids):
    live = prepared(2)
    before = contents(live)
    with pytest.raises(InputError):
        live.add(catalog_of(100), sids)
    assert contents(live) == before
    live.add(catalog_of(100), SIDS["one"])
    assert contents(live)[0]["item 100"] == ("Title 100", (1, 2, 3))


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16, np.uint32, np.int64, np.uint64])
def test_codes_of_every_width(dtype):
    for sids in (SIDS["two"].astype(dtype), np.asfortranarray(SIDS["two"].astype(dtype))):
        live = prepared(2)
        live.add(catalog_of(100, 3), sids)
        assert contents(live)[0]["item 100"] == ("Title 100", (5, 4, 6))
    live = prepared(2)
    live.add(catalog_of(100, 3), SIDS["two"].tolist())
    assert contents(live)[0]["item 3"] == ("Title 3", (0, 0, 0))


def broken(**parts):
    """A catalogue whose parts were changed after it was checked."""
    catalog = catalog_of(100)
    for name, value in parts.items():
        object.__setattr__(catalog, name, value)
    return catalog


WRONG_ITEMS = {
    "twice": broken(item_ids=("x", "x"), fields={"title": ("a", "b")}),
    "empty id": broken(item_ids=("",)),
    "id of another type": broken(item_ids=(5,)),
    "text of another type": broken(fields={"title": (5,)}),
    "no text": broken(fields={"title": (None,)}),
    "one text as a list": broken(fields={"title": "T"}),
    "too few texts": broken(fields={"title": ()}),
    "other field": broken(fields={"name": ("T",)}),
    "more fields": broken(fields={"title": ("T",), "name": ("T",)}),
    "no catalogue": ["x"],
    "there": catalog_of(5),
}


@pytest.mark.parametrize("items", WRONG_ITEMS.values(), ids=WRONG_ITEMS)
def test_wrong_items_change_nothing(items):
    live = prepared(2)
    before = contents(live)
    with pytest.raises((InputError, TypeError)):
        live.add(items, SIDS["two"] if len(getattr(items, "item_ids", "")) == 2 else SIDS["one"])
    assert contents(live) == before


@pytest.mark.parametrize("ids", ["item 1", b"item 1", None, [1], {"item 1": 2}, [["item 1"]]])
def test_ids_are_checked_at_every_door(ids):
    live = prepared(2)
    before = contents(live)
    for door in (live.remove, lambda ids: live.define("s", ids)):
        with pytest.raises(TypeError):
            door(ids)
    assert contents(live) == before


def test_iterators_are_taken_whole():
    live = prepared(2)
    live.define("s", (f"item {n}" for n in range(3)))
    live.remove(iter(["item 0", "item 1"]))
    assert contents(live)[1]["s"] == ["item 2"]


def test_hints():
    live = make_live()
    with pytest.raises(
        InputError, match=r"unknown item id ' item 3', did you|the catalogue has 20"
    ):
        live.row_of(" item 3")
    live.add(Catalog(("50",), {"title": ("T",)}), SIDS["one"])
    with pytest.raises(InputError, match=r"unknown item id '50\.0'.*did you mean '50'\?"):
        live.row_of("50.0")
    with pytest.raises(TypeError, match="item ids are text: got 50, did you mean '50'"):
        live.remove([50])


@settings(max_examples=40)
@given(st.data())
def test_any_sequence_of_changes(data):
    """A plain dict is the model: after every change the catalogue equals it."""
    live, model, ever = make_live(4), {f"item {n}": n for n in range(4)}, 4
    sids = {item: tuple(sid) for item, sid in zip(model, live.sids.tolist(), strict=True)}
    views = []
    for _ in range(data.draw(st.integers(1, 8))):
        views.append((live.view, sorted(model)))
        gone = sorted(set(sids) - set(model))
        if data.draw(st.booleans()) and len(model) > 1:
            chosen = data.draw(st.lists(st.sampled_from(sorted(model)), unique=True))
            chosen = chosen[: len(model) - 1]
            live.remove(chosen)
            for item in chosen:
                del model[item]
        else:
            back = data.draw(st.lists(st.sampled_from(gone), unique=True)) if gone else []
            added = [*back, *(f"item {ever + i}" for i in range(data.draw(st.integers(0, 2))))]
            added = data.draw(st.permutations(added))
            if not added:
                continue
            ever += len(added) - len(back)
            codes = data.draw(
                st.lists(
                    st.tuples(*(st.integers(0, size - 1) for size in SIZES)),
                    min_size=len(added),
                    max_size=len(added),
                )
            )
            live.add(catalog_of(*(int(i[5:]) for i in added)), np.array(codes))
            model |= dict.fromkeys(added, 0)
            sids |= dict(zip(added, codes, strict=True))
        there, _, _ = contents(live)
        assert {item: sid for item, (_, sid) in there.items()} == {i: sids[i] for i in model}
        found = leaves(live)
        assert sorted(itertools.chain(*found.values())) == sorted(model)
    for view, items in views:  # what was handed out earlier never changed
        rows = view.compacted.rows(np.arange(view.trie.num_items))
        assert sorted(view.table.item_id(row) for row in rows) == items


def test_a_view_keeps_its_sets():
    live = make_live()
    live.define("s", ["item 1"])
    view = live.view
    assert view.sets.resolve("s", None).rows().tolist() == [1]
    live.define("s", ["item 2"])
    live.define("t", ["item 3"])
    assert view.sets.resolve("s & s", None).rows().tolist() == [1]
    assert view.compacted.sets.resolve("s", None).rows().tolist() == [1]
    with pytest.raises(InputError, match="unknown item set 't'; defined: s"):
        view.sets.resolve("t", None)
    assert live.view.sets.resolve("s | t", None).rows().tolist() == [2, 3]


def test_changes_inside_inference_mode():
    live = make_live()
    with torch.inference_mode():
        live.add(catalog_of(100), SIDS["one"])
    live.add(catalog_of(101), SIDS["one"])
    assert not live.view.tokens.is_inference()


@pytest.mark.parametrize("is_compacted", [False, True])
def test_what_a_change_replaces_is_freed_at_once(is_compacted):
    """Without the cycle collector, which a server may run rarely or never."""
    live = prepared(2)
    gc.collect()
    gc.disable()
    try:
        for n in range(30):
            view = live.view
            view.sets.resolve("old", None)
            if is_compacted:
                view.compacted.sets.resolve("old", "old")
                view.compacted.trie.item_begin  # noqa: B018
            parts = [view, view.sets, view.trie]
            parts += [view.compacted] if is_compacted else []
            references = [weakref.ref(part) for part in parts]
            del view, parts
            if n % 3 == 0:
                live.add(catalog_of(1000 + n, 3), SIDS["two"])
            elif n % 3 == 1:
                live.remove(["item 3"])
            else:
                live.define("old", [f"item {n % 5}"])
            is_freed = [reference() is None for reference in references]
            # a definition keeps the trie
            assert is_freed == [True, True, n % 3 != 2, True][: len(is_freed)]
    finally:
        gc.enable()


def test_memory_is_flat_without_the_cycle_collector():
    live = make_live()
    gc.collect()
    gc.disable()
    try:
        counts = []
        for n in range(1000):
            live.remove([f"item {n % 10}"])
            live.define("s", ["item 15"])
            live.view.sets.resolve("s", None)
            live.add(catalog_of(n % 10), SIDS["one"])
            if n in (200, 999):
                counts.append(len(gc.get_objects()))
    finally:
        gc.enable()
    assert counts[1] - counts[0] < 100


def test_two_histories_of_one_call_see_one_definition(make_engine):
    """`define` runs while a call resolves the sets of its histories, one after the other."""
    engine = make_engine(beam_width=60)
    stop, halves = threading.Event(), [[f"item {n}" for n in range(b, b + 30)] for b in (0, 30)]
    engine.define("half", halves[0])

    def redefine():
        for half in itertools.cycle(halves):
            engine.define("half", half)
            if stop.is_set():
                return

    thread = threading.Thread(target=redefine)
    thread.start()
    try:
        for _ in range(20):
            rows, _ = engine.recommend_rows(
                [[1], [2], [3]], 30, allow=["half", "half & half", "~~half"]
            )
            sides = {bool(row >= 30) for row in rows.flatten().tolist()}
            assert len(sides) == 1
    finally:
        stop.set()
        thread.join()
