"""What goes to a device of a catalogue, made on the host before anybody has to wait for it."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from store_engine.catalog.catalog_view import StaticView
from store_engine.catalog.trie_arrays import TrieArrays


class HostArrays(NamedTuple):
    """A catalogue as `DeviceCatalog` holds it; the tensors on the CPU.

    Attributes:
        level_sizes: Nodes of every level, the root's first.
        codebook_sizes: Codes of every level.
        child_begin: Per level (num_nodes + 1,) int32: where the children of each node begin.
        token: Per level (num_children,): the code of each child, of the dtype of `token_dtype`.
        item_begin: Per level, the root's first, (num_nodes + 1,) int32: the place of the first item
            below each node.
        place_of_row: (num_items,) int32, by row of the trie.
        row_of_place: (num_items + 1,) int64 catalogue rows; the last is -1, for no item.
        history_tokens: (num_rows, tokens_per_item) int64 unified ids, by catalogue row.
    """

    level_sizes: list[int]
    codebook_sizes: list[int]
    child_begin: list[Tensor]
    token: list[Tensor]
    item_begin: list[Tensor]
    place_of_row: NDArray[np.int32]
    row_of_place: NDArray[np.int64]
    history_tokens: NDArray[np.int64]

    @classmethod
    def of(cls, view: StaticView) -> "HostArrays":
        """Makes them: O(number of items)."""
        trie = TrieArrays(view.trie.item_trie)  # on the host
        pairs = zip(trie.token, trie.codebook_sizes, strict=True)
        return cls(
            trie.level_sizes,
            trie.codebook_sizes,
            [begin.int() for begin in trie.child_begin],
            [token.to(token_dtype(size)) for token, size in pairs],
            [begin.int() for begin in trie.item_begin],
            trie.ranks.int().numpy(),
            np.append(view.rows(trie.rows.numpy()), -1),
            view.tokens.cpu().numpy(),
        )

    def prefix_keys(self, sizes: tuple[int, ...]) -> Tensor:
        """The codes of every node of the last level but one, as `ItemPlaces` counts them: int64."""
        keys = torch.zeros(1, dtype=torch.int64)
        for begin, token, size in zip(self.child_begin, self.token, sizes, strict=False):
            keys = keys.repeat_interleave(begin.diff()) * size + token
        return keys


def token_dtype(codebook_size: int) -> torch.dtype:
    """Returns the dtype of a level's codes."""
    return torch.uint8 if codebook_size <= 256 else torch.int32
