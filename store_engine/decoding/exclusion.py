"""Items that a request must not get back, such as those it already has: exact, per request.

A trie node is dead for a request when every item below it is excluded. A dead node must not take a
beam's place, so each level's step returns as many beams more as that level has dead nodes, and the
dead ones among them are dropped: what remains are exactly the best living ones.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from store_engine.decoding.beam_step import Beams
from store_engine.decoding.trie_arrays import TrieArrays


class Exclusion:
    """The excluded items of a batch.

    Args:
        trie: The catalogue.
        rows: Per request the catalogue rows to exclude, in any order, repeats allowed.
    """

    def __init__(self, trie: TrieArrays, rows: Sequence[NDArray[np.int64]]) -> None:
        pairs = [
            (request, row) for request, wanted in enumerate(rows) for row in set(wanted.tolist())
        ]
        request, row = torch.tensor(pairs, dtype=torch.int64).view(-1, 2).unbind(1)
        self._num_items = trie.num_items
        self._items = (request * trie.num_items + row).numpy()
        request, row = request.to(trie.device), row.to(trie.device)
        place = trie.places[row]  # in SID order
        self._dead: list[Tensor] = []  # per level: request * num_nodes + node, ascending
        self._num_nodes = trie.level_sizes[1:]
        self._num_dead: list[int] = []
        for begin, num_nodes in zip(trie.item_begin[1:], self._num_nodes, strict=True):
            node = torch.searchsorted(begin, place, right=True) - 1
            key, count = (request * num_nodes + node).unique(return_counts=True)
            size = begin.diff()[key % num_nodes]
            dead = key[count == size]
            self._dead.append(dead)
            per_request = torch.bincount(dead // num_nodes, minlength=1)
            self._num_dead.append(int(per_request.max()))

    def num_dead(self, level: int) -> int:
        """Dead children at most, over the requests, of the nodes at depth `level`."""
        return self._num_dead[level]

    def prune(self, level: int, beams: Beams, width: int) -> Beams:
        """Drops the dead beams after `level`'s step and keeps the first `width` others."""
        batch, beam_width = beams.nodes.shape
        slots = torch.arange(beam_width, device=beams.nodes.device)
        request = torch.arange(batch, device=beams.nodes.device)[:, None]
        is_dead = torch.isin(request * self._num_nodes[level] + beams.nodes, self._dead[level])
        is_dead |= slots >= beams.num_valid[:, None]
        order = is_dead.long().argsort(dim=1, stable=True)[:, :width]  # living first
        is_dead = is_dead.gather(1, order)
        scores = beams.scores.gather(1, order).masked_fill(is_dead, -torch.inf)
        parents, tokens, nodes = (
            x.gather(1, order).masked_fill(is_dead, -1)
            for x in (beams.parents, beams.tokens, beams.nodes)
        )
        return Beams(scores, parents, tokens, nodes, (~is_dead).sum(1))

    def is_excluded(
        self, request: NDArray[np.int64], rows: NDArray[np.integer]
    ) -> NDArray[np.bool_]:
        """Whether each catalogue row is excluded for its request; (num_rows,) all three."""
        return np.isin(request * self._num_items + rows, self._items)

    def mask(self, scores: Tensor) -> Tensor:
        """A copy of scores (batch, num_items) by row, with -inf for the excluded items."""
        items = torch.from_numpy(self._items).to(scores.device)
        return scores.flatten().index_fill(0, items, -torch.inf).view_as(scores)
