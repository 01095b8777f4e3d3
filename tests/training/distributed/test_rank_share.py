"""Work that ranks share: evaluation by two ranks is that by one, to the last bit."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from store_engine.training.distributed.rank_share import ALONE, RankShare

SCRIPT = Path(__file__).with_name("rank_together.py")


def rank_together(folder, num_ranks):
    """What each rank got, and how many users it left to the others."""
    started = [
        subprocess.Popen([sys.executable, SCRIPT, folder, str(rank), str(num_ranks)])
        for rank in range(num_ranks)
    ]
    assert [process.wait(120) for process in started] == [0] * num_ranks
    files = [np.load(folder / f"{num_ranks}-{rank}.npz") for rank in range(num_ranks)]
    return [file["rankings"] for file in files], [int(file["num_left"]) for file in files]


@pytest.mark.slow
def test_two_ranks_rank_as_one_does(tmp_path):
    (alone,), _ = rank_together(tmp_path, 1)
    (first, second), left = rank_together(tmp_path, 2)
    np.testing.assert_array_equal(first, alone)
    np.testing.assert_array_equal(second, alone)
    assert sum(left) == 43
    assert min(left) > 0


@pytest.mark.parametrize("num_ranks", [1, 2, 3])
def test_every_part_is_one_ranks(num_ranks):
    shares = [RankShare(rank, num_ranks) for rank in range(num_ranks)]
    assert all(sum(share.has(part) for share in shares) == 1 for part in range(10))


def test_alone_all_is_ones_own(process_group):
    own = np.arange(4)
    assert ALONE.has(7)
    assert ALONE.gather(own) is own
    assert RankShare.of_process_group("cpu") == ALONE
