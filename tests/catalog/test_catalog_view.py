"""What a view promises: nothing in it changes, and nothing keeps it alive."""

import gc
import itertools
import threading
import weakref

import pytest
import torch
from live_catalogs import SIDS, catalog_of, make_live, prepared

from store_engine.errors import InputError


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
