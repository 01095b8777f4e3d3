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
        # prefixes (batch, width) of the search before, and the items' logits under each
        self._known: tuple[Tensor, Tensor] | None = None

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
        """Computes the logits behind prefixes (batch, width), where heads read all levels.

        What a search on the same histories computed before is taken from there.
        """
        model, state = self.model, self.by_head(level)
        if not model.is_item_level(level):
            return model.logits(state, level, prefixes)
        if self._known is None:
            self._known = prefixes, model.logits(state, level, prefixes)
            return self._known[1]
        known, logits = self._known
        ordered, order = known.sort(dim=1)
        at = torch.searchsorted(ordered, prefixes).clamp(max=known.shape[1] - 1)
        is_known = ordered.gather(1, at) == prefixes
        found = model.logits(state, level, prefixes.masked_fill(is_known, -1))
        request, beam = is_known.nonzero(as_tuple=True)
        found[request, beam] = logits[request, order.gather(1, at)[request, beam]]
        return found

    def item_scores(self, sids: Tensor) -> Tensor:
        """Computes the log-probabilities of given items, where heads read all levels.

        Args:
            sids: (batch, width, num_levels) int64.

        Returns:
            (batch, width) float32.
        """
        model, (batch, width, num_levels) = self.model, sids.shape
        scores = torch.zeros(batch, width, device=sids.device)
        prefixes = torch.zeros_like(sids[:, :, 0])
        for level in range(num_levels):
            codes = sids[:, :, level]
            if model.is_item_level(level):
                logits = self.head_logits(level, prefixes)
                own = logits.gather(2, codes[:, :, None])[:, :, 0]
                return scores + own - logits.logsumexp(2)
            logits = model.logits(self.by_head(level), level, prefixes[:, :1])[:, 0]
            scores = scores + logits.float().log_softmax(1).gather(1, codes)
            prefixes = model.next_prefixes(prefixes, codes, level)
        return scores

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
