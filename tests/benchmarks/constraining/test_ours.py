from benchmarks.constraining.cases import Case, catalogue
from benchmarks.constraining.check import check
from benchmarks.constraining.decode import Logits
from benchmarks.constraining.ours import Ours, live_snapshot
from store_engine._C import ItemTrie


def test_a_live_snapshot_is_the_same_catalogue_with_nothing_merged():
    case = Case(1000, "uniform", beam=10, batch=2, codebook_size=32)
    sids, sizes = catalogue(case, None)
    live = live_snapshot(sids, sizes, num_changes=100)
    assert live.num_items == len(sids)
    ours = {"ours": Ours(ItemTrie(sids, sizes), 1), "ours_live": Ours(live, 1)}
    check(case, Logits(case.batch, sizes), ours)
    assert live.nbytes > ours["ours"].nbytes
