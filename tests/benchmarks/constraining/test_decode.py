import numpy as np

from benchmarks.constraining.cases import Case, catalogue
from benchmarks.constraining.decode import Logits, decode, mean_step
from benchmarks.constraining.ours import Ours
from store_engine._C import ItemTrie


def test_a_decode_is_timed_level_by_level():
    case = Case(500, "uniform", beam=4, batch=2, codebook_size=16)
    sids, sizes = catalogue(case, None)
    scores, found, times = decode(Ours(ItemTrie(sids, sizes), 1), Logits(2, sizes), case)
    assert scores.shape == (2, 4) and found.shape == (2, 4, 4) and len(times) == 4
    rows = {tuple(sid) for sid in sids.tolist()}
    assert all(tuple(sid) in rows for sid in found.flatten(0, 1).tolist())
    assert np.all(np.array(times) > 0)


def test_the_first_step_is_left_out_of_the_mean():
    assert mean_step([9.0, 1.0, 2.0, 6.0]) == 3.0
