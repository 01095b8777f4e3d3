"""What the codes of a level are read from: a step of the transformer per beam, or a head.

Either way a level's logits come from states and, where the last code is the item itself, from the
prefix, which both searches carry as one number (`DecodingModel.next_prefixes`).
"""

import functools

import torch
from torch import Tensor

from store_engine.inference.cache_attention import TreeAttention
from store_engine.inference.decoding_model import DecodingModel
from store_engine.inference.kv_cache import KVCache


class Writer:
    """Gives the states that a batch's codes are read from.

    Args:
        model: The model.
        cache: Filled by prefill.
        state: (batch, hidden_size), that of each history's last token.
    """

    def __init__(self, model: DecodingModel, cache: KVCache, state: Tensor) -> None:
        self.model, self._cache, self._state = model, cache, state
        self._head_states: dict[int, Tensor] = {}

    @functools.cached_property
    def first_logits(self) -> Tensor:
        """(batch, 1, codebook_size), the logits of the first level."""
        root = torch.zeros(len(self._state), 1, dtype=torch.int64, device=self._state.device)
        states = self.by_head(0) if self.model.has_heads else self._state[:, None]
        return self.model.logits(states, 0, root)

    def by_head(self, level: int) -> Tensor:
        """The state that all codes of a level are read from: (batch, 1, hidden_size)."""
        if level not in self._head_states:
            self._head_states[level] = self.model.head_states(self._state, level)[:, None]
        return self._head_states[level]

    def head_logits(self, level: int, prefixes: Tensor) -> Tensor:
        """The logits behind prefixes (batch, width), where heads read all levels."""
        return self.model.logits(self.by_head(level), level, prefixes)

    def by_step(self, level: int, codes: Tensor, attend: TreeAttention) -> Tensor:
        """Runs codes through the model: (batch, width, hidden_size), for the level behind them.

        Args:
            level: Level of the codes that are read from the states, at least 1.
            codes: (batch, width) int64, of the level before.
            attend: Of these codes, to their histories and prefixes.
        """
        width = codes.shape[1]
        embeddings = self.model.embed_codes(codes.flatten(), level - 1)
        positions = (self._cache.device_lengths + level - 1).repeat_interleave(width)
        states = self.model.transformer(embeddings, positions, attend).unflatten(0, codes.shape)
        return states + self._state[:, None] if self.model.source.skip else states
