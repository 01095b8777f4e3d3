import pytest

from benchmarks.constraining.cases import Case, catalogue
from benchmarks.constraining.check import check, check_filtered
from benchmarks.constraining.decode import Logits
from benchmarks.constraining.ours import Ours, RandomFilter
from benchmarks.constraining.provider import Unconstrained
from store_engine._C import ItemTrie

CASE = Case(300, "uniform", beam=8, batch=2, codebook_size=32)


@pytest.fixture
def made():
    sids, sizes = catalogue(CASE, None)
    return sids, sizes, ItemTrie(sids, sizes)


def test_who_leaves_the_catalogue_is_refused(made):
    _, sizes, trie = made
    providers = {"ours": Ours(trie, 1), "wrong": Unconstrained()}
    with pytest.raises(AssertionError, match="wrong differs from ours"):
        check(CASE, Logits(CASE.batch, sizes), providers)


def test_a_filter_gives_what_a_trie_of_the_items_left_gives(made):
    sids, sizes, trie = made
    item_filter = RandomFilter(trie, CASE.batch, share=0.5, num_excluded=5)
    check_filtered(CASE, Logits(CASE.batch, sizes), item_filter, sids, sizes)


def test_a_filter_that_lets_other_items_through_is_refused(made, monkeypatch):
    sids, sizes, trie = made
    item_filter = RandomFilter(trie, CASE.batch, share=0.5, num_excluded=5)
    few = RandomFilter(trie, CASE.batch, share=0.1, num_excluded=5)
    monkeypatch.setattr(item_filter, "rows_left", few.rows_left)
    with pytest.raises(AssertionError, match="the filter changes request 0"):
        check_filtered(CASE, Logits(CASE.batch, sizes), item_filter, sids, sizes)
