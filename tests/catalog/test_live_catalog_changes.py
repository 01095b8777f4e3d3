"""What a change of the live catalogue promises: it happens in full or not at all."""

import itertools
import linecache
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from live_catalogs import SIDS, SIZES, catalog_of, contents, leaves, make_live, prepared

from store_engine.catalog import catalog_view, item_sets, item_table, live_catalog, new_items
from store_engine.errors import InputError

TRACED = {m.__file__ for m in (catalog_view, item_sets, item_table, live_catalog, new_items)}
CHANGES = {
    "first add": lambda live: live.add(catalog_of(100), SIDS["one"]),
    "add and return": lambda live: live.add(catalog_of(101, 3), SIDS["two"]),
    "remove": lambda live: live.remove(["item 7", "item 8"]),
    "define": lambda live: live.define("stock", ["item 1", "item 2"]),
    "redefine": lambda live: live.define("old", ["item 5"]),
}


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
