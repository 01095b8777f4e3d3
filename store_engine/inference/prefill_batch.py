"""Histories as the model reads them: <bos>, then the tokens of each item, oldest first.

Histories of similar length are batched together, so that the cache of a batch has little padding;
the model itself runs over packed tokens and sees none.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from store_engine.errors import InputError


@dataclass(frozen=True)
class PrefillBatch:
    """The histories of a batch, packed.

    Attributes:
        tokens: (num_tokens,) int64 unified ids, on the model's device.
        lengths: (batch,) int64 on the CPU, each at least 1.
    """

    tokens: Tensor
    lengths: Tensor

    @classmethod
    def from_histories(
        cls, histories: Sequence[NDArray[np.int64]], item_tokens: Tensor, bos: int
    ) -> "PrefillBatch":
        """Writes histories as tokens.

        Args:
            histories: Catalogue rows, oldest first; at least one history.
            item_tokens: (num_items, tokens_per_item) int64 unified ids: what is read of each item.
            bos: Token that each history begins with.
        """
        per_item, device = item_tokens.shape[1], item_tokens.device
        lengths = torch.tensor([1 + per_item * len(history) for history in histories])
        first = (lengths.cumsum(0) - lengths).to(device)
        rows = torch.from_numpy(np.concatenate(histories)).to(device)
        tokens = torch.full((int(lengths.sum()),), bos, device=device)
        is_item = torch.ones_like(tokens, dtype=torch.bool).index_fill_(0, first, False)
        return cls(tokens.masked_scatter_(is_item, item_tokens[rows]), lengths)


def check_rows(
    lists: Iterable[Iterable[int]], num_items: int, what: str
) -> list[NDArray[np.int64]]:
    """Copies lists of catalogue rows into arrays, reading each once.

    Args:
        lists: One per history.
        num_items: Items of the catalogue.
        what: The name of one list in an error.

    Raises:
        InputError: A row is not in the catalogue.
        TypeError: A list holds something other than integers.
    """
    checked = []
    for i, one in enumerate(lists):
        rows = _integers(one)
        if rows is None:
            raise TypeError(f"{what} {i} must be a list of catalogue rows, got {one!r:.80}")
        outside = rows[(rows < 0) | (rows >= num_items)]
        if outside.size:
            raise InputError(f"{what} {i}: row {outside[0]} is outside [0, {num_items})")
        checked.append(rows.astype(np.int64))
    return checked


def _integers(values: Iterable[int]) -> NDArray[np.integer] | None:
    """A list of integers as an array; None for anything else."""
    try:
        array = np.asarray(values if hasattr(values, "__len__") else list(values))
    except (TypeError, ValueError):  # no iterable, or lists of unequal length
        return None
    if array.ndim == 1 and array.size == 0:
        return array.astype(np.int64)
    return array if array.ndim == 1 and array.dtype.kind in "iu" else None


def batches(histories: Sequence[NDArray[np.int64]], batch_size: int) -> Iterator[NDArray[np.int64]]:
    """Splits histories into batches of similar length, longest first: their positions."""
    lengths = np.array([len(history) for history in histories], dtype=np.int64)
    order = np.argsort(-lengths, kind="stable")
    for begin in range(0, len(order), batch_size):
        yield order[begin : begin + batch_size]
