"""A stream of changes to a live catalogue, while others decode from it."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from store_engine._C import LiveTrie


class ItemStream:
    """New items with random codes, of which every other is removed again.

    Args:
        live: The catalogue; its item ids are below its number of items.
        sizes: Codebook sizes.
    """

    def __init__(self, live: LiveTrie, sizes: list[int]) -> None:
        self._live, self._sizes = live, sizes
        self._next_id = live.snapshot().num_items
        self._rng = np.random.default_rng(3)

    def add(self, count: int) -> float:
        """Adds items and removes half of them; returns the ms until the added ones are seen."""
        ids = np.arange(self._next_id, self._next_id + count)
        new = self._rng.integers(0, self._sizes, (count, len(self._sizes)), np.int32)
        begin = time.perf_counter()
        self._live.add(new, ids)
        self._live.snapshot()
        seen_ms = 1e3 * (time.perf_counter() - begin)
        self._live.remove(ids[::2].copy())
        self._next_id += count
        return seen_ms

    @contextmanager
    def flowing(self, count: int, interval_s: float) -> Iterator[None]:
        """Adds `count` items every `interval_s` in another thread, inside the block."""
        is_done = threading.Event()

        def flow() -> None:
            while not is_done.wait(interval_s):
                self.add(count)

        writer = threading.Thread(target=flow)
        writer.start()
        try:
            yield
        finally:
            is_done.set()
            writer.join()
