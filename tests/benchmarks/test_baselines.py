import numpy as np
import pytest

from benchmarks.baselines import measure_rankings
from store_engine.data.histories import Histories
from store_engine.data.split import leave_one_out


def test_rankings_made_elsewhere_are_measured_under_both_rules(tmp_path):
    rows = np.array([0, 1, 2, 3, 4, 3, 2, 1], dtype=np.int32)
    split = leave_one_out(Histories(("a", "b"), rows, np.array([0, 4, 8])))
    # user a has seen 0 1 2, the target is 3; user b is not ranked
    np.savez(tmp_path / "r.npz", users=[0], rankings=[[2, 4, 3, -1]], targets=[3])
    left_out, allowed = measure_rankings(split, 5, tmp_path / "r.npz")
    assert left_out["num_ranked"] == 1
    assert left_out["metrics"]["ndcg@10"] == pytest.approx(1 / np.log2(3))
    assert allowed["metrics"]["ndcg@10"] == pytest.approx(1 / np.log2(4))
