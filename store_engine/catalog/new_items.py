"""Items to add, checked in full and copied before anything changes."""

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from store_engine.catalog.item_ids import check_item_ids
from store_engine.data.catalog import Catalog
from store_engine.errors import InputError


class NewItems(NamedTuple):
    """Items that fit a catalogue; nobody else holds these lists and this array."""

    item_ids: list[str]
    fields: dict[str, list[str]]  # field name -> one text per item
    sids: NDArray[np.int32]  # (num_items, num_levels), C-contiguous


def check_new_items(
    items: Catalog, sids: ArrayLike, fields: Collection[str], codebook_sizes: Sequence[int]
) -> NewItems:
    """Checks everything about new items that does not depend on the items there are.

    Args:
        items: The items.
        sids: (num_items, num_levels) integers of any width.
        fields: Names of the fields that the catalogue has.
        codebook_sizes: Codes per level.

    Raises:
        TypeError: `items` is no catalogue, or an item id is not text.
        InputError: An id is empty or there twice; a field, a text, a shape or a code is wrong.
    """
    if not isinstance(items, Catalog):
        raise TypeError(f"items must be a Catalog, got {type(items).__name__}")
    item_ids = check_item_ids(items.item_ids, "items.item_ids")
    if "" in item_ids or len(set(item_ids)) < len(item_ids):
        raise InputError("the new items' ids must not be empty or appear twice")
    for item_id in item_ids:
        _check_encodable(item_id, f"item id {item_id!r}")
    if items.fields.keys() != set(fields):
        raise InputError(
            f"the new items' fields must be {', '.join(fields)}, got {', '.join(items.fields)}"
        )
    copied = {name: _check_texts(name, items.fields[name], item_ids) for name in fields}
    return NewItems(item_ids, copied, check_sids(sids, item_ids, codebook_sizes))


def _check_texts(field: str, texts: Sequence[str], item_ids: list[str]) -> list[str]:
    copied = list(texts)
    if isinstance(texts, str) or len(copied) != len(item_ids):
        raise InputError(f"field {field} must have one text per item ({len(item_ids)})")
    for item_id, text in zip(item_ids, copied, strict=True):
        if not isinstance(text, str):
            raise InputError(
                f"item {item_id!r}: field {field} must be text, got {type(text).__name__}"
            )
        _check_encodable(text, f"item {item_id!r}: field {field}")
    return copied


def _check_encodable(text: str, what: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{what}: must not hold half of a surrogate pair") from error


def check_sids(
    sids: ArrayLike, item_ids: Sequence[str], codebook_sizes: Sequence[int]
) -> NDArray[np.int32]:
    """Checks and copies SIDs.

    Args:
        sids: (num_items, num_levels) integers of any width.
        item_ids: Of the items, for the error.
        codebook_sizes: Codes per level.

    Returns:
        (num_items, num_levels), C-contiguous.

    Raises:
        InputError: The shape or a code is wrong.
    """
    want = (len(item_ids), len(codebook_sizes))
    try:
        codes = np.array(sids)  # a copy: what is checked is what is added
    except ValueError as error:  # rows of unequal length
        raise InputError(f"sids must be (num_items, num_levels) = {want}: {error}") from error
    if codes.shape != want:
        raise InputError(f"sids must be (num_items, num_levels) = {want}, got {codes.shape}")
    if codes.dtype.kind not in "iu":
        raise InputError(f"sids must be whole numbers (int32), got {codes.dtype}")
    is_wrong = (codes < 0) | (codes >= np.array(codebook_sizes))
    if is_wrong.any():
        item, level = np.argwhere(is_wrong)[0]
        raise InputError(
            f"item {item_ids[item]!r}: code {codes[item, level]} of level {level} is "
            f"outside [0, {codebook_sizes[level]})"
        )
    return np.ascontiguousarray(codes, dtype=np.int32)
