"""The core in a child of fork(): it answers as in the parent, and never waits for a lost thread."""

import os
import signal
import threading
import warnings

import numpy as np
import torch

from store_engine._C import ItemFilter, LiveTrie, RowSet, beam_step

SIZES = [50, 50, 50]
SIDS = np.random.default_rng(0).integers(0, 50, (20_000, 3), dtype=np.int32)
IDS = np.arange(20_000)
SECONDS = 60  # then the kernel ends a child that waits for ever


def runs_in_child(function) -> bool:
    """Whether `function` ends without an exception in a child."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python warns of fork() with threads
        child = os.fork()
    if child == 0:
        code = 1
        try:
            signal.alarm(SECONDS)
            function()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def search(trie, item_filter=None, num_threads=4):
    """One step of eight requests."""
    shape = (8, 1)
    logits = np.random.default_rng(1).normal(size=(*shape, 50)).astype(np.float32)
    arrays = (np.zeros(shape, np.float32), np.zeros(shape, np.int64), np.ones(8, np.int64))
    return beam_step(trie, 0, logits, *arrays, 5, item_filter=item_filter, num_threads=num_threads)


def test_a_live_trie_changes_and_merges_on_in_a_child():
    live = LiveTrie(SIDS, IDS, SIZES, max_changes=10)

    def use():
        some = np.arange(100)
        live.remove(some[50:])  # starts a merge of the child's own
        live.compact()
        live.add(SIDS[some[50:]], some[50:])
        live.compact()
        snapshot = live.snapshot()
        assert snapshot.num_changes == 0
        assert snapshot.num_items == len(snapshot.items()[1]) == len(SIDS) - removed
        search(snapshot)

    removed = 0
    for i in range(8):
        gone = 1000 + np.arange(i * 10, i * 10 + 10)
        live.remove(gone)  # starts a merge, which the fork cuts off in the child
        removed += 10
        assert runs_in_child(use)
    use()


def test_a_child_forked_in_the_middle_of_changes_has_a_whole_catalogue():
    live = LiveTrie(SIDS, IDS, SIZES, max_changes=50)
    is_done = threading.Event()
    pairs = len(IDS) + np.arange(40)

    def change():
        while not is_done.is_set():
            live.add(SIDS[:40], pairs)
            live.remove(pairs)
            live.compact()

    def use():
        snapshot = live.snapshot()
        is_there = snapshot.rows_of(pairs) >= 0
        assert is_there.all() or not is_there.any()
        if is_there.any():
            live.remove(pairs)
        change_once()
        assert live.snapshot().num_items == len(SIDS)

    def change_once():
        live.add(SIDS[:40], pairs)
        live.remove(pairs)
        live.compact()

    writer = threading.Thread(target=change)
    writer.start()
    try:
        assert all(runs_in_child(use) for _ in range(20))
    finally:
        is_done.set()
        writer.join()


def test_the_threads_of_a_step_are_not_waited_for_in_a_child():
    # PyTorch brings the OpenMP runtime that the core uses too
    torch.ones(10) @ torch.ones(10)
    live = LiveTrie(SIDS, IDS, SIZES)
    snapshot = live.snapshot()
    item_filter = ItemFilter(snapshot, 8, allow=RowSet.from_rows(snapshot, IDS[::3].copy()))
    for some_filter in (None, item_filter):
        want = search(snapshot, some_filter)

        def use(some_filter=some_filter, want=want):
            for num_threads in (1, 2, 8):
                got = search(snapshot, some_filter, num_threads)
                assert all(a.tobytes() == b.tobytes() for a, b in zip(got, want, strict=True))

        assert runs_in_child(use)
