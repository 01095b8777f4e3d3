import numpy as np
import pytest

from store_engine.data.histories import Histories
from store_engine.data.split import leave_one_out


def test_leave_one_out():
    rows = np.array([5, 6, 7, 8, 1, 2, 3], dtype=np.int32)
    split = leave_one_out(Histories(("a", "b"), rows, np.array([0, 4, 7])))
    assert split.protocol == "leave-one-out"
    assert split.train.user_ids == ("a", "b")
    assert [split.train[u].tolist() for u in range(2)] == [[5, 6], [1]]
    assert [h.tolist() for h in split.valid.histories] == [[5, 6], [1]]
    assert split.valid.targets.tolist() == [7, 2]
    assert [h.tolist() for h in split.test.histories] == [[5, 6, 7], [1, 2]]
    assert split.test.targets.tolist() == [8, 3]
    assert split.test.targets.dtype == split.test.histories[0].dtype == np.int32


def test_needs_three_events():
    histories = Histories(("a", "b"), np.zeros(5, np.int32), np.array([0, 3, 5]))
    with pytest.raises(ValueError, match="3 events per user, got 2 for user 'b'"):
        leave_one_out(histories)
