import numpy as np
import pytest
import torch
from engines import BOS, catalog_of, random_model, random_sids

from store_engine.catalog.resident.host_arrays import HostArrays
from store_engine.decoding.engine import Engine


@pytest.fixture
def view():
    """Of items of which some were removed, so that rows of trie and catalogue differ."""
    engine = Engine(random_model(), catalog_of(60), random_sids(60), bos=BOS)
    engine.remove_items(["item 0", "item 7", "item 59"])
    return engine._items.view.compacted


def test_are_the_arrays_of_the_trie_in_fewer_bits(view):
    arrays, trie = HostArrays.of(view), view.trie
    assert (arrays.level_sizes, arrays.codebook_sizes) == (trie.level_sizes, trie.codebook_sizes)
    for name in ("child_begin", "token", "item_begin"):
        for got, want in zip(getattr(arrays, name), getattr(trie, name), strict=True):
            assert got.tolist() == want.tolist()
            assert got.dtype == (torch.uint8 if name == "token" else torch.int32)
    assert arrays.place_of_row.tolist() == trie.ranks.tolist()


def test_places_lead_to_catalogue_rows_in_the_order_of_sids(view):
    *rows, none = HostArrays.of(view).row_of_place.tolist()
    assert none == -1
    want = sorted(set(range(60)) - {0, 7, 59}, key=lambda row: (*view.table.sids[row], row))
    assert rows == want


def test_codes_of_prefixes_are_one_number(view):
    keys = HostArrays.of(view).prefix_keys((6, 5)).tolist()
    prefixes = np.unique(view.table.sids[view.rows(np.arange(57))][:, :2], axis=0)
    assert keys == [5 * first + second for first, second in prefixes.tolist()]
