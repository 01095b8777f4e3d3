"""Items as tokens of the LLM: read as one position, written as the last code of a SID.

Items are counted by *slot*: their rank in the order of their codes. So the items of one prefix are
one slice of the rows, and a softmax over them is `linear_cross_entropy` with that slice.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from store_engine.model.layer_ops import swiglu
from store_engine.model.transformer import INIT_STD, Linear


@dataclass(frozen=True)
class ItemTokens:
    """How whole items enter and leave a model.

    Args:
        codes: (num_items, num_code_levels) int, in slot order: the codes of every item that have
            rows of their own. With `num_features` these are the levels above the item itself.
        num_features: Numbers that describe an item to the projection of its row; 0: the last level
            is a code like the others, and items have no rows.
        are_read: A history's item is one position; else every code is one.
        head_size: Hidden units of the heads, one per level, on the last state; 0: each level is a
            step of the transformer.
        is_tied: The row that is read is the row that is written.
        residual_dropout: Share of the items whose residual a training step leaves out.
        softmax_weight: Weight of a loss over all items beside that over the levels.
    """

    codes: NDArray[np.integer]
    num_features: int = 0
    are_read: bool = False
    head_size: int = 0
    is_tied: bool = True
    residual_dropout: float = 0.0
    softmax_weight: float = 0.0

    def __post_init__(self) -> None:
        """Refuses codes that are not in slot order."""
        order = np.lexsort(self.codes.T[::-1]) if self.codes.shape[1] else np.arange(len(self))
        if not np.array_equal(self.codes[order], self.codes):
            raise ValueError("codes must be in ascending order")

    def __len__(self) -> int:
        """Items."""
        return len(self.codes)

    @property
    def have_rows(self) -> bool:
        """The last level is the item itself."""
        return self.num_features > 0

    @property
    def num_levels(self) -> int:
        """Levels of a SID."""
        return self.codes.shape[1] + self.have_rows

    @cached_property
    def slices(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Per item the first slot of those that share its codes, and their number."""
        changes = (self.codes[1:] != self.codes[:-1]).any(1)
        begins = np.r_[0, 1 + np.flatnonzero(changes)].astype(np.int64)
        counts = np.diff(np.r_[begins, len(self)])
        return np.repeat(begins, counts), np.repeat(counts, counts)


class Rows(NamedTuple):
    """The items' vectors of one step, (num_items, hidden_size) each."""

    read: Tensor
    written: Tensor


class ItemRows(nn.Module):
    """A row per item: a projection of what describes it, plus a residual that is learned.

    A new item has no residual: it is found and recommended by what describes it.

    Args:
        items: Sizes.
        hidden_size: Components of a row.
    """

    def __init__(self, items: ItemTokens, hidden_size: int) -> None:
        super().__init__()
        self._dropout = items.residual_dropout
        # a parameter, so that it is saved, partitioned and moved as weights are; never trained
        features = torch.zeros(len(items), items.num_features)
        self.features = nn.Parameter(features, requires_grad=False)
        self.proj = Linear(items.num_features, hidden_size)
        self.residual = nn.Parameter(
            nn.init.normal_(torch.empty(len(items), hidden_size), std=INIT_STD)
        )
        self.written_residual: nn.Parameter | None = None
        if not items.is_tied:
            self.written_residual = nn.Parameter(
                nn.init.normal_(torch.empty(len(items), hidden_size), std=INIT_STD)
            )

    def forward(self) -> Rows:
        """Computes the rows of all items."""
        base = self.proj(self.features)
        keep: Tensor | float = 1.0
        if self.training and self._dropout:
            keep = (torch.rand(len(base), 1, device=base.device) >= self._dropout).to(base.dtype)
        read = base + keep * self.residual
        if self.written_residual is None:
            return Rows(read, read)
        return Rows(read, base + keep * self.written_residual)

    def new_rows(self, features: Tensor) -> Tensor:
        """Computes the rows of items without a residual: (n, num_features) -> (n, hidden_size)."""
        projected: Tensor = self.proj(features)
        return projected


class LevelHead(nn.Module):
    """What one level's codes are read from: the state, plus a small SwiGLU of it."""

    def __init__(self, hidden_size: int, head_size: int, dropout: float) -> None:
        super().__init__()
        self.gate_up_proj = Linear(hidden_size, 2 * head_size)
        self.down_proj = Linear(head_size, hidden_size, INIT_STD / 2)
        self.dropout = nn.Dropout(dropout)

    def forward(self, state: Tensor) -> Tensor:
        """Maps (..., hidden_size) to the same shape."""
        return state + self.dropout(self.down_proj(swiglu(self.gate_up_proj(state))))
