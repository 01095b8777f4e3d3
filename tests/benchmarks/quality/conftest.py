import numpy as np
import pytest

from benchmarks.quality.click_events import Events
from benchmarks.quality.click_scorer import MAX_EVENTS
from store_engine.data.histories import Histories
from store_engine.data.split import leave_one_out


@pytest.fixture
def events():
    rng, counts = np.random.default_rng(0), [3, MAX_EVENTS + 70, 1]
    users = np.repeat(np.arange(3), counts)
    times = rng.permutation(len(users))
    order = np.lexsort([times, users])
    rows, labels = rng.integers(0, 12, len(users)), rng.integers(0, 2, len(users))
    times = times[order]
    return Events(users, rows, labels, times, np.searchsorted([120, 150], times, side="right"))


@pytest.fixture
def split():
    rows = np.array([0, 1, 2, 3, 4, 3, 2, 1], dtype=np.int32)
    return leave_one_out(Histories(("a", "b"), rows, np.array([0, 4, 8])))
