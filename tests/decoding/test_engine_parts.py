"""An engine that was made of the wrong parts says so at once, not at its first request."""

import copy
import pickle

import numpy as np
import pytest
from engines import SIZES, catalog_of, random_model, random_sids

from store_engine._C import ItemTrie, LiveTrie
from store_engine.config import Config, DecodingConfig
from store_engine.decoding.engine import Engine

SIDS = random_sids(60)
MODEL, CATALOG = random_model(), catalog_of(60)


def make(**changes):
    parts = {"model": MODEL, "catalog": CATALOG, "sids": SIDS, "bos": 1} | changes
    return Engine(parts.pop("model"), parts.pop("catalog"), parts.pop("sids"), **parts)


WRONG = {
    "no model": ({"model": None}, TypeError, "model must be of type StoreModel, got NoneType"),
    "ids for a catalogue": ({"catalog": ["x"]}, TypeError, "catalog must be of type Catalog"),
    "no sids": ({"sids": None}, ValueError, r"\(num_items, num_levels\) = \(60, 3\)"),
    "fewer sids": ({"sids": SIDS[:-1]}, ValueError, r"\(num_items, num_levels\) = \(60, 3\)"),
    "fractions": ({"sids": SIDS * 1.0}, ValueError, "whole numbers"),
    "a negative code": ({"sids": SIDS - 1}, ValueError, "is outside"),
    "bos beyond the text": ({"bos": 20}, ValueError, r"bos must be in \[0, 19\], got 20"),
    "a negative bos": ({"bos": -1}, ValueError, "bos must be in"),
    "a huge bos": ({"bos": 10**5000}, ValueError, "bos must be in"),
    "bos as text": ({"bos": "1"}, TypeError, "bos must be an integer, got '1'"),
    "bos as a fraction": ({"bos": 1.0}, TypeError, "bos must be an integer"),
    "no history": ({"max_history": 0}, ValueError, "max_history must be in"),
    "a negative history": ({"max_history": -1}, ValueError, "max_history must be in"),
    "half a history": ({"max_history": 2.5}, TypeError, "max_history must be an integer"),
    "a yes as a number": ({"max_history": True}, TypeError, "max_history must be an integer"),
    "a dict for a config": ({"config": {}}, TypeError, "config must be of type DecodingConfig"),
    "a whole config": ({"config": Config()}, TypeError, "config must be of type DecodingConfig"),
    "text for a trie": ({"trie": "x"}, TypeError, "trie must be of type ItemTrie"),
    "a snapshot": (
        {"trie": LiveTrie(SIDS, np.arange(60), list(SIZES)).snapshot()},
        TypeError,
        "trie must be of type ItemTrie, got Snapshot",
    ),
    "a trie of other items": (
        {"trie": ItemTrie(random_sids(60, seed=1), list(SIZES))},
        ValueError,
        "the trie must hold the SIDs of the items",
    ),
    "a trie of other codebooks": (
        {"trie": ItemTrie(SIDS, [7, 7, 7])},
        ValueError,
        "the trie must hold the SIDs of the items",
    ),
}


@pytest.mark.parametrize(("changes", "error", "message"), WRONG.values(), ids=WRONG)
def test_wrong_parts(changes, error, message):
    with pytest.raises(error, match=message) as caught:
        make(**changes)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "changes",
    [
        {"sids": SIDS.tolist()},
        {"sids": SIDS.astype(np.uint16)},
        {"sids": np.asfortranarray(SIDS)},
        {"bos": np.int64(1), "max_history": np.int32(50)},
        {"config": DecodingConfig()},
        {"trie": ItemTrie(SIDS, list(SIZES), mode="compact")},
    ],
    ids=["a list", "another width", "another order", "numpy's numbers", "config", "a trie"],
)
def test_other_forms_of_the_same_parts(changes):
    found = make(**changes).recommend([["item 1"]], k=5)
    want = make().recommend([["item 1"]], k=5)
    assert [one.item_id for one in found[0]] == [one.item_id for one in want[0]]


@pytest.mark.parametrize("way", [pickle.dumps, copy.copy, copy.deepcopy])
def test_an_engine_cannot_be_copied(way):
    with pytest.raises(TypeError, match="an Engine cannot be pickled or copied"):
        way(make())
