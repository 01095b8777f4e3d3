import time

import numpy as np

from benchmarks.constraining.updates import ItemStream
from store_engine._C import LiveTrie


def test_half_of_what_is_added_stays():
    sids = np.random.default_rng(0).integers(0, 8, (50, 3), np.int32)
    live = LiveTrie(sids, np.arange(50), [8, 8, 8])
    stream = ItemStream(live, [8, 8, 8])
    assert stream.add(10) > 0
    assert live.snapshot().num_items == 55
    deadline = time.monotonic() + 60
    with stream.flowing(4, interval_s=0.001):
        while live.snapshot().num_items < 65:
            assert time.monotonic() < deadline
    before = live.snapshot().num_items
    assert (before - 55) % 2 == 0  # the last changes were made whole
    assert stream.add(2) > 0 and live.snapshot().num_items == before + 1  # and no more came
