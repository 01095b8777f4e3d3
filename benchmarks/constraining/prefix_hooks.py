"""transformers' prefix hook over tries that know whole prefixes, as people write them."""

import marisa_trie
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PrefixConstrainedLogitsProcessor

from benchmarks.constraining.provider import Step, TorchBeams
from benchmarks.measuring.memory import resident_bytes
from benchmarks.peers.dict_trie import DictTrie


class TransformersHook(TorchBeams):
    """transformers' prefix_allowed_tokens_fn over a trie of Python dictionaries."""

    def __init__(self, sids: NDArray[np.int32], sizes: list[int]) -> None:
        before = resident_bytes()
        self._dicts = DictTrie(sids.tolist())
        self.nbytes = max(0, resident_bytes() - before)

    def start(self, batch: int, width: int) -> None:
        """See Provider."""
        super().start(batch, width)
        self._codes = torch.zeros(batch, 1, 0, dtype=torch.int64)

    def allowed(self, _: int, codes: Tensor) -> list[int]:
        """The codes that continue a prefix."""
        return self._dicts.following(codes)

    def step(self, level: int, logits: Tensor) -> Step:
        """See Provider."""
        batch, beams, size = logits.shape
        processor = PrefixConstrainedLogitsProcessor(self.allowed, beams)
        logprobs = logits.log_softmax(-1).view(-1, size)
        constrained = processor(self._codes.view(batch * beams, level), logprobs)
        index = self._keep(self._scores[:, :, None] + constrained.view(batch, beams, size))
        parents, tokens = index // size, index % size
        kept = self._codes.gather(1, parents[:, :, None].expand(-1, -1, level))
        self._codes = torch.cat([kept, tokens[:, :, None]], dim=2)
        return Step(self._scores, parents, tokens)


class MarisaHook(TransformersHook):
    """The same hook over a marisa-trie of strings, one character per code, as GENRE does it.

    The library lists whole keys only, so a prefix's next codes come from all keys below it; those
    of the root are kept. Source: the MarisaTrie of facebookresearch/GENRE, from its description.
    """

    def __init__(self, sids: NDArray[np.int32], sizes: list[int]) -> None:
        self._trie = marisa_trie.Trie("".join(map(chr, sid)) for sid in (sids + 1).tolist())
        self._first = sorted(set(sids[:, 0].tolist()))
        self.nbytes = len(self._trie.tobytes())

    def allowed(self, _: int, codes: Tensor) -> list[int]:
        """The codes that continue a prefix."""
        if len(codes) == 0:
            return self._first
        prefix = "".join(map(chr, (codes + 1).tolist()))
        return list({ord(key[len(prefix)]) - 1 for key in self._trie.keys(prefix)})
