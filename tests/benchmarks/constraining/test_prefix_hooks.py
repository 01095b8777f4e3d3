from benchmarks.constraining.cases import Case, catalogue
from benchmarks.constraining.check import check
from benchmarks.constraining.decode import Logits
from benchmarks.constraining.ours import Ours
from benchmarks.constraining.prefix_hooks import MarisaHook, TransformersHook
from store_engine._C import ItemTrie


def test_both_find_what_ours_finds():
    case = Case(2000, "uniform", beam=20, batch=3, codebook_size=63)
    sids, sizes = catalogue(case, None)
    providers = {"ours": Ours(ItemTrie(sids, sizes), 1)}
    providers |= {make.__name__: make(sids, sizes) for make in (TransformersHook, MarisaHook)}
    check(case, Logits(case.batch, sizes), providers)
