"""The ids of all kinds of tokens: text first, then the codes of level 0, level 1, ..., then items.

Every level has a code space of its own, so a unified id says its level. No softmax ever runs over
more than one segment: all text tokens, the codes of one level, or the items of one prefix.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class UnifiedVocabulary:
    """Where each segment of the unified ids begins.

    Args:
        text_size: Number of text tokens.
        codebook_sizes: Codes per level; empty while items have no codes yet.
        num_items: Items that are tokens themselves, by slot; they stand behind the codes.
    """

    text_size: int
    codebook_sizes: tuple[int, ...] = ()
    num_items: int = 0

    @property
    def num_levels(self) -> int:
        """Levels of codes."""
        return len(self.codebook_sizes)

    @property
    def num_codes(self) -> int:
        """Codes of all levels."""
        return sum(self.codebook_sizes)

    def __len__(self) -> int:
        """Tokens of all kinds."""
        return self.item_offset + self.num_items

    @property
    def item_offset(self) -> int:
        """The unified id of the first item."""
        return self.text_size + self.num_codes

    @cached_property
    def code_offsets(self) -> tuple[int, ...]:
        """Per level the first row of its codes in a table of codes alone."""
        return tuple(accumulate(self.codebook_sizes, initial=0))[:-1]

    @cached_property
    def level_offsets(self) -> tuple[int, ...]:
        """Per level the unified id of its first code."""
        return tuple(self.text_size + offset for offset in self.code_offsets)

    def to_ids(self, sids: NDArray[np.integer]) -> NDArray[np.int64]:
        """Turns SIDs (..., num_levels) into unified ids of the same shape."""
        return sids.astype(np.int64) + np.array(self.level_offsets, dtype=np.int64)

    def to_id_tensor(self, sids: Tensor) -> Tensor:
        """Turns SIDs (..., num_levels) int64 into unified ids of the same shape and device."""
        return sids + torch.tensor(self.level_offsets, device=sids.device)

    def level_of(self, ids: Tensor) -> Tensor:
        """Returns the level of each unified id, int64 of the same shape; -1 for a text token.

        The id must be no item's.
        """
        offsets = torch.tensor(self.level_offsets, device=ids.device)
        return torch.bucketize(ids, offsets, right=True) - 1
