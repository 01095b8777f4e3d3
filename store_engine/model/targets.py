"""What a packed batch is to predict, sorted on the host by the head that predicts it.

How many targets each head has decides the shapes of what it computes. Counted on a GPU they make
the host wait for it; counted where the batch is made they cost nothing.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from store_engine.model.item_rows import ItemTokens
from store_engine.model.unified_vocabulary import UnifiedVocabulary

IGNORE = -100  # a position without a target


class HeadTargets(NamedTuple):
    """The targets of one head: (num_targets,) int64 each, in the order of their positions."""

    order: Tensor  # place among the targets of all heads
    at: Tensor  # position in the packed batch
    first: Tensor  # position that the item's first code is read from, as long as `at` is behind it
    ids: Tensor  # row of the head: a text token, a code of any level, or an item's slot


class Targets(NamedTuple):
    """All targets of a packed batch, by head."""

    text: HeadTargets
    codes: HeadTargets
    items: HeadTargets
    code_start: Tensor  # of each code the first row of its level, int64
    code_size: Tensor  # of each code the rows of its level, int64

    @property
    def total(self) -> int:
        """Targets of all heads."""
        return sum(len(head.at) for head in (self.text, self.codes, self.items))

    @classmethod
    def of(
        cls, targets: Tensor, vocabulary: UnifiedVocabulary, items: ItemTokens | None = None
    ) -> "Targets":
        """Sorts the targets of a packed batch.

        Args:
            targets: (num_tokens,) int64 unified ids, `IGNORE` where there is none.
            vocabulary: Text tokens, codes and items.
            items: The items that are tokens themselves.
        """
        # the labels of other tasks are levels behind those of an item
        num_levels = vocabulary.num_levels if items is None else items.num_levels
        at = (targets != IGNORE).nonzero()[:, 0]
        ids = targets[at]
        is_text, is_item = ids < vocabulary.text_size, ids >= vocabulary.item_offset

        def head(is_own: Tensor, level: Tensor, base: int) -> HeadTargets:
            order = is_own.nonzero()[:, 0]
            own = at[order]
            is_behind = (level > 0) & (level < num_levels)
            return HeadTargets(order, own, own - level * is_behind, ids[order] - base)

        is_code = ~(is_text | is_item)
        level = vocabulary.level_of(ids[is_code])
        start, size = (
            torch.tensor(x, dtype=torch.int64, device=targets.device)[level]
            for x in (vocabulary.code_offsets, vocabulary.codebook_sizes)
        )
        none = torch.zeros((), dtype=torch.int64, device=targets.device)
        return cls(
            head(is_text, none, 0),
            head(is_code, level, vocabulary.text_size),
            head(is_item, none + num_levels - 1, vocabulary.item_offset),
            start,
            size,
        )
