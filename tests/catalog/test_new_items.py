import numpy as np
import pytest
from live_catalogs import SIDS, catalog_of, contents, make_live, prepared

from store_engine.data.catalog import Catalog
from store_engine.errors import InputError

WRONG_SIDS = {
    "float": np.array([[1.0, 2.0, 3.0]]),
    "nan": np.array([[1.0, np.nan, 3.0]]),
    "bool": np.array([[True, False, True]]),
    "object": np.array([[1, 2, None]], dtype=object),
    "text": np.array([["1", "2", "3"]]),
    "huge": np.array([[2**63, 0, 0]], dtype=np.uint64),
    "wraps": np.array([[2**32 + 1, 0, 0]], dtype=np.int64),
    "negative": np.array([[0, -1, 0]], dtype=np.int8),
    "beyond": np.array([[0, 5, 0]], dtype=np.uint8),
    "too many levels": np.zeros((1, 4), np.int32),
    "too few levels": np.zeros((1, 2), np.int32),
    "flat": np.zeros(3, np.int32),
    "too many items": np.zeros((2, 3), np.int32),
    "ragged": [[1, 2], [3]],
    "None": None,
    "datetime": np.zeros((1, 3), dtype="datetime64[s]"),
}


@pytest.mark.parametrize("sids", WRONG_SIDS.values(), ids=WRONG_SIDS)
def test_wrong_codes_change_nothing(sids):
    live = prepared(2)
    before = contents(live)
    with pytest.raises(InputError):
        live.add(catalog_of(100), sids)
    assert contents(live) == before
    live.add(catalog_of(100), SIDS["one"])
    assert contents(live)[0]["item 100"] == ("Title 100", (1, 2, 3))


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16, np.uint32, np.int64, np.uint64])
def test_codes_of_every_width(dtype):
    for sids in (SIDS["two"].astype(dtype), np.asfortranarray(SIDS["two"].astype(dtype))):
        live = prepared(2)
        live.add(catalog_of(100, 3), sids)
        assert contents(live)[0]["item 100"] == ("Title 100", (5, 4, 6))
    live = prepared(2)
    live.add(catalog_of(100, 3), SIDS["two"].tolist())
    assert contents(live)[0]["item 3"] == ("Title 3", (0, 0, 0))


def broken(**parts):
    """A catalogue whose parts were changed after it was checked."""
    catalog = catalog_of(100)
    for name, value in parts.items():
        object.__setattr__(catalog, name, value)
    return catalog


WRONG_ITEMS = {
    "twice": broken(item_ids=("x", "x"), fields={"title": ("a", "b")}),
    "empty id": broken(item_ids=("",)),
    "id of another type": broken(item_ids=(5,)),
    "text of another type": broken(fields={"title": (5,)}),
    "half a pair in a text": broken(fields={"title": ("\ud800",)}),
    "half a pair in an id": broken(item_ids=("\ud800",)),
    "no text": broken(fields={"title": (None,)}),
    "one text as a list": broken(fields={"title": "T"}),
    "too few texts": broken(fields={"title": ()}),
    "other field": broken(fields={"name": ("T",)}),
    "more fields": broken(fields={"title": ("T",), "name": ("T",)}),
    "no catalogue": ["x"],
    "there": catalog_of(5),
}


@pytest.mark.parametrize("items", WRONG_ITEMS.values(), ids=WRONG_ITEMS)
def test_wrong_items_change_nothing(items):
    live = prepared(2)
    before = contents(live)
    with pytest.raises((InputError, TypeError)):
        live.add(items, SIDS["two"] if len(getattr(items, "item_ids", "")) == 2 else SIDS["one"])
    assert contents(live) == before


@pytest.mark.parametrize("ids", ["item 1", b"item 1", None, [1], {"item 1": 2}, [["item 1"]]])
def test_ids_are_checked_at_every_door(ids):
    live = prepared(2)
    before = contents(live)
    for door in (live.remove, lambda ids: live.define("s", ids)):
        with pytest.raises(TypeError):
            door(ids)
    assert contents(live) == before


def test_iterators_are_taken_whole():
    live = prepared(2)
    live.define("s", (f"item {n}" for n in range(3)))
    live.remove(iter(["item 0", "item 1"]))
    assert contents(live)[1]["s"] == ["item 2"]


def test_hints():
    live = make_live()
    with pytest.raises(
        InputError, match=r"unknown item id ' item 3', did you|the catalogue has 20"
    ):
        live.row_of(" item 3")
    live.add(Catalog(("50",), {"title": ("T",)}), SIDS["one"])
    with pytest.raises(InputError, match=r"unknown item id '50\.0'.*did you mean '50'\?"):
        live.row_of("50.0")
    with pytest.raises(TypeError, match="item ids are text: got 50, did you mean '50'"):
        live.remove([50])
