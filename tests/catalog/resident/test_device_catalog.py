import numpy as np
import pytest
import torch
from engines import BOS, catalog_of, random_model, random_sids

from store_engine.catalog.resident.device_catalog import DeviceCatalog
from store_engine.catalog.resident.host_arrays import HostArrays
from store_engine.decoding.engine import Engine

CPU = torch.device("cpu")


def view_of(num_items, seed=0, sizes=(6, 5, 7)):
    sids = random_sids(num_items, sizes, seed)
    return Engine(random_model(sizes), catalog_of(num_items), sids, bos=BOS)._items.view


def tensors_of(catalog):
    levels = [catalog.level(level) for level in range(3)]
    return [*(x for level in levels for x in level[:2]), catalog.leaf_begin]


def test_a_catalogue_that_fits_is_written_where_the_old_one_was():
    catalog, small, large = DeviceCatalog(CPU), view_of(60), view_of(63, seed=1)
    catalog.hold(small)
    before = tensors_of(catalog)
    catalog.hold(large)
    assert catalog.generation == 1
    assert all(new is old for new, old in zip(tensors_of(catalog), before, strict=True))
    begins = large.trie.item_begin[-1]
    assert catalog.leaf_begin[: len(begins)].tolist() == begins.tolist()
    assert catalog.rows_of_places(np.array([0, 62, -1])).tolist()[2] == -1


@pytest.mark.parametrize(
    "view", [view_of(400), view_of(60, sizes=(6, 5, 8))], ids=["items", "codes"]
)
def test_one_that_does_not_fit_gets_memory_of_its_own(view):
    catalog = DeviceCatalog(CPU)
    catalog.hold(view_of(60))
    catalog.hold(view)
    assert catalog.generation == 2
    assert all(n <= room for n, room in zip(view.trie.level_sizes, catalog.capacity, strict=True))


def test_what_was_prepared_is_what_is_written(monkeypatch):
    view = view_of(60)
    arrays, catalog, other = HostArrays.of(view), DeviceCatalog(CPU), DeviceCatalog(CPU)
    other.hold(view)
    monkeypatch.setattr(HostArrays, "of", None)  # nothing is made again
    catalog.hold(view, arrays=arrays)
    catalog.hold(view)
    for got, want in zip(tensors_of(catalog), tensors_of(other), strict=True):
        assert torch.equal(got, want)


def test_a_write_that_failed_is_done_again(monkeypatch):
    catalog, old, new = DeviceCatalog(CPU), view_of(60), view_of(60, seed=1)
    catalog.hold(old)
    with monkeypatch.context() as patch:
        patch.setattr(catalog._sets, "clear", None)
        with pytest.raises(TypeError):
            catalog.hold(new)
    catalog.hold(old)
    begins = old.trie.item_begin[-1]
    assert catalog.leaf_begin[: len(begins)].tolist() == begins.tolist()
