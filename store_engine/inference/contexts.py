"""Histories as the model reads them: <bos>, then the codes of each item, oldest first.

Histories of similar length are batched together, so that the cache of a batch has little padding;
the model itself runs over packed tokens and sees none.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from store_engine.errors import InputError

Rows = Sequence[int] | NDArray[np.integer]


@dataclass(frozen=True)
class Contexts:
    """The histories of a batch, packed.

    Attributes:
        tokens: (num_tokens,) int64 joint ids, on the model's device.
        lengths: (batch,) int64 on the CPU, each at least 1.
    """

    tokens: Tensor
    lengths: Tensor


def check_rows(lists: Sequence[Rows], num_items: int, what: str) -> list[NDArray[np.int64]]:
    """Lists of catalogue rows as arrays.

    Args:
        lists: One per history.
        num_items: Of the catalogue.
        what: The lists' name in an error.

    Raises:
        InputError: A row is not in the catalogue.
    """
    checked = []
    for i, one in enumerate(lists):
        rows = np.asarray(one, dtype=np.int64)
        outside = rows[(rows < 0) | (rows >= num_items)]
        if outside.size:
            raise InputError(f"{what} {i}: row {outside[0]} is outside [0, {num_items})")
        checked.append(rows)
    return checked


def batches(histories: Sequence[NDArray[np.int64]], batch_size: int) -> Iterator[NDArray[np.int64]]:
    """Splits histories into batches of similar length, longest first: their positions."""
    lengths = np.array([len(history) for history in histories], dtype=np.int64)
    order = np.argsort(-lengths, kind="stable")
    for begin in range(0, len(order), batch_size):
        yield order[begin : begin + batch_size]


def pack(histories: Sequence[NDArray[np.int64]], item_tokens: Tensor, bos: int) -> Contexts:
    """Writes histories as tokens.

    Args:
        histories: Catalogue rows, oldest first; at least one history.
        item_tokens: (num_items, num_levels) int64 joint ids of each item's codes.
        bos: Token that each history begins with.
    """
    num_levels, device = item_tokens.shape[1], item_tokens.device
    lengths = torch.tensor([1 + num_levels * len(history) for history in histories])
    first = (lengths.cumsum(0) - lengths).to(device)
    rows = torch.from_numpy(np.concatenate(histories)).to(device)
    tokens = torch.full((int(lengths.sum()),), bos, device=device)
    is_item = torch.ones_like(tokens, dtype=torch.bool).index_fill_(0, first, False)
    return Contexts(tokens.masked_scatter_(is_item, item_tokens[rows]), lengths)
