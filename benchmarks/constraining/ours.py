"""The C++ core as benchmarks/trie.py times it: on a trie, on live changes, under a filter."""

import time

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.constraining.provider import Step
from store_engine._C import BeamStep, ItemFilter, ItemTrie, LiveTrie, RowSet, Snapshot, beam_step


class Ours:
    """The C++ core, on a trie or on a snapshot of a live one, with a filter or without."""

    def __init__(
        self, trie: ItemTrie | Snapshot, threads: int, item_filter: ItemFilter | None = None
    ) -> None:
        self.trie, self._threads, self._filter = trie, threads, item_filter
        self.nbytes = trie.nbytes

    def start(self, batch: int, width: int) -> None:
        """See Provider."""
        zeros = np.zeros((batch, 1), dtype=np.int64)
        ones = np.ones(batch, dtype=np.int64)
        self._beams = BeamStep(zeros.astype(np.float32), zeros, zeros, zeros, ones)
        self._width = width

    def step(self, level: int, logits: Tensor) -> Step:
        """See Provider."""
        beams = self._beams
        self._beams = beam_step(
            self.trie,
            level,
            logits.numpy(),
            beams.scores,
            beams.nodes,
            beams.num_valid,
            self._width,
            item_filter=self._filter,
            num_threads=self._threads,
        )
        return Step(*map(torch.from_numpy, self._beams[:3]))


def live_snapshot(sids: NDArray[np.int32], sizes: list[int], num_changes: int) -> Snapshot:
    """The catalogue as a snapshot, half of its changes additions, half removals, none merged."""
    rng = np.random.default_rng(4)
    is_late = np.zeros(len(sids), dtype=bool)
    is_late[rng.choice(len(sids), num_changes // 2, replace=False)] = True
    ids = np.arange(len(sids))
    # what is removed again has the same SIDs as some items that stay
    twins = rng.choice(ids[~is_late], num_changes // 2, replace=False)
    base = np.concatenate([sids[~is_late], sids[twins]])
    base_ids = np.concatenate([ids[~is_late], len(sids) + np.arange(len(twins))])
    live = LiveTrie(base, base_ids, sizes, max_changes=2 * num_changes + 1)
    live.remove(len(sids) + np.arange(len(twins)))
    live.add(np.ascontiguousarray(sids[is_late]), ids[is_late])
    return live.snapshot()


class RandomFilter:
    """One set of allowed items for all requests, and some of these excluded for each."""

    def __init__(
        self, trie: ItemTrie | Snapshot, batch: int, share: float, num_excluded: int
    ) -> None:
        rng = np.random.default_rng(2)
        self.trie, self._batch = trie, batch
        self._allowed = np.flatnonzero(rng.random(trie.num_items) < share)
        self._allow = RowSet.from_rows(trie, self._allowed)
        self._excluded = rng.choice(self._allowed, (batch, num_excluded))

    def make(self) -> ItemFilter:
        """The filter of a batch; the set of allowed items is shared by all batches."""
        offsets = np.arange(self._batch + 1) * self._excluded.shape[1]
        exclude = (offsets, self._excluded.flatten())
        return ItemFilter(self.trie, self._batch, allow=self._allow, exclude=exclude)

    def time_ms(self) -> float:
        """Milliseconds that make() takes."""
        begin = time.perf_counter()
        self.make()
        return 1e3 * (time.perf_counter() - begin)

    def rows_left(self, request: int) -> NDArray[np.int64]:
        """What the filter lets through."""
        return np.setdiff1d(self._allowed, self._excluded[request])
