"""What an engine is made of, checked: parts of the wrong type, or that do not fit each other."""

from collections.abc import Iterable, Sequence
from numbers import Integral
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from store_engine._C import ItemTrie
from store_engine.catalog.new_items import check_sids
from store_engine.config import DecodingConfig
from store_engine.data.catalog import Catalog
from store_engine.errors import InputError, shown
from store_engine.model.store_model import StoreModel
from store_engine.sid.trie_sids import trie_holds

_MAX_CODEBOOK_SIZE = 1 << 16  # of the core's trie
_MAX_SHAPE = 1 << 16  # histories, and items of one, of a made-up request


class EngineItems(NamedTuple):
    """The items of an engine: SIDs, and the trie of these."""

    sids: NDArray[np.int32]  # (num_items, num_levels)
    trie: ItemTrie


class ForeignTrieError(InputError):
    """A trie is of other items than those it came with."""


def check_items(
    model: StoreModel, catalog: Catalog, sids: ArrayLike, trie: ItemTrie | None
) -> EngineItems:
    """Checks the items of an engine, and builds their trie if there is none.

    Args:
        model: The recommender.
        catalog: The items.
        sids: (num_items, num_levels) integers.
        trie: Of these SIDs, or None.

    Raises:
        InputError: The SIDs do not fit the catalogue or the model.
        ForeignTrieError: The trie holds other SIDs.
        TypeError: A part is of another type.
    """
    _check_type("model", model, StoreModel)
    _check_type("catalog", catalog, Catalog)
    sizes = _level_sizes(model, sids, trie)
    codes = check_sids(sids, catalog.item_ids, sizes)
    if trie is None:
        return EngineItems(codes, ItemTrie(codes, list(sizes)))
    if trie.codebook_sizes != sizes or not trie_holds(trie, codes):
        raise ForeignTrieError("the trie must hold the SIDs of the items, holds others")
    return EngineItems(codes, trie)


def _level_sizes(model: StoreModel, sids: ArrayLike, trie: ItemTrie | None) -> tuple[int, ...]:
    """Codes per level of the trie: the model's; the last one's are the trie's own for items."""
    if trie is not None:
        _check_type("trie", trie, ItemTrie)
    if model.items is None or not model.items.have_rows:
        return model.codebook_sizes
    if trie is not None:
        return (*model.codebook_sizes, trie.codebook_sizes[-1])
    last = np.asarray(sids)[..., -1:]  # its shape is checked later
    largest = int(last.max(initial=0)) if last.dtype.kind in "iu" else 0
    return (*model.codebook_sizes, min(largest, _MAX_CODEBOOK_SIZE - 1) + 1)


def check_reading(model: StoreModel, bos: int, max_history: int) -> None:
    """Checks how an engine reads histories.

    Raises:
        TypeError: A number is no integer.
        ValueError: A number is out of its range.
    """
    _check_integer("bos", bos, 0, model.text_vocab_size - 1)
    _check_integer("max_history", max_history, 1, 1 << 31)


def check_config(config: DecodingConfig | None) -> DecodingConfig:
    """Returns the defaults of the search.

    Raises:
        TypeError: The config is of another type.
    """
    if config is None:
        return DecodingConfig()
    _check_type("config", config, DecodingConfig)
    return config


def check_shapes(shapes: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Returns the shapes of requests to come: histories, and items of the longest.

    Raises:
        TypeError: They are no pairs of integers.
        InputError: There are no histories, or more than 65,536, or a length is negative.
    """
    checked = []
    for shape in shapes:
        if not isinstance(shape, Sequence) or len(shape) != 2:
            raise TypeError(f"shapes must be pairs of integers, got {shown(shape)}")
        for name, number, low in zip(("histories", "items"), shape, (1, 0), strict=True):
            try:
                _check_integer(f"{name} of a shape", number, low, _MAX_SHAPE)
            except ValueError as error:
                raise InputError(str(error)) from error
        checked.append((int(shape[0]), int(shape[1])))
    return checked


def _check_type(name: str, value: object, kind: type) -> None:
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be of type {kind.__name__}, got {type(value).__name__}")


def _check_integer(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be an integer, got {shown(value)}")
    if not low <= int(value) <= high:
        raise ValueError(f"{name} must be in [{low}, {high}], got {shown(value)}")
