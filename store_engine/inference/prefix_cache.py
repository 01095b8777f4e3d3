"""Keys and values of histories seen before: a user's next request computes the new items only.

The memory is split by item: a block holds the tokens of one item, for all layers, and is found by
the SHA-256 of all tokens up to its end. So histories that begin alike share their blocks, whoever's
they are, and no history can be made up that finds another's. The block that was not used for the
longest time goes first; of one history's blocks, the last item's. What a block holds depends on the
model's weights: new weights need a new cache.
Source: Kwon et al. 2023 (vLLM's prefix caching), https://arxiv.org/abs/2309.06180.
"""

import hashlib
import threading
from collections import OrderedDict
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from store_engine.inference.contexts import Contexts


class Restored(NamedTuple):
    """What `restore` did.

    Attributes:
        num_known: (batch,) int64 on the CPU, how many of each context's first tokens are known.
            Always fewer than it has, because the state at its last token is still to be computed.
        keys: Per context the keys of its blocks, for `store`.
    """

    num_known: Tensor
    keys: list[list[bytes]]


class PrefixCache:
    """Least-recently-used cache of context blocks. Safe to call from several threads.

    A history that was cut to its last `max_history` items begins anew and shares nothing with the
    one before.

    Args:
        max_mib: Most memory that the blocks may hold.
        num_levels: Codes per item.

    Raises:
        ValueError: `max_mib` is not positive.
    """

    def __init__(self, max_mib: float, num_levels: int) -> None:
        if max_mib <= 0:
            raise ValueError(f"max_mib must be positive, got {max_mib}")
        self._max_bytes = int(max_mib * 2**20)
        self._num_levels = num_levels
        # by key: (num_layers, 2, num_tokens, num_kv_heads, head_dim), oldest use first
        self._blocks: OrderedDict[bytes, Tensor] = OrderedDict()
        self._lock = threading.Lock()
        self.nbytes = 0

    def restore(self, contexts: Contexts, layers: Tensor) -> Restored:
        """Copies what is known of each context into its slots.

        Args:
            contexts: The histories.
            layers: `KVCache.layers`, started for them; their first slots are written.
        """
        num_known, keys = torch.zeros_like(contexts.lengths), self._keys(contexts)
        for request, (length, own) in enumerate(zip(contexts.lengths.tolist(), keys, strict=True)):
            blocks = self._find(own)
            if blocks:
                known = torch.cat(blocks, dim=2)[:, :, : length - 1]
                num_known[request] = known.shape[2]
                layers[:, :, request, : known.shape[2]] = known
        return Restored(num_known, keys)

    def store(self, keys: list[list[bytes]], layers: Tensor) -> None:
        """Keeps a copy of every block of a batch, which prefill has written or restored.

        Args:
            keys: What `restore` gave for the batch.
            layers: `KVCache.layers`, filled.
        """
        with self._lock:
            for request, own in enumerate(keys):
                # an earlier item's block is useful without the later ones, so it is used last
                for item, key in reversed(list(enumerate(own))):
                    block = self._blocks.pop(key, None)
                    if block is None:
                        block = layers[:, :, request, self._slots(item)].clone()
                        self.nbytes += _nbytes(key, block)
                    self._blocks[key] = block
            while self.nbytes > self._max_bytes:
                self.nbytes -= _nbytes(*self._blocks.popitem(last=False))

    def _slots(self, item: int) -> slice:
        """Where a context holds its n-th item. <bos> joins the first."""
        end = 1 + self._num_levels * (item + 1)
        return slice(end - self._num_levels if item else 0, end)

    def _keys(self, contexts: Contexts) -> list[list[bytes]]:
        """Per context, per item: the SHA-256 of all tokens up to the item's last."""
        tokens, keys = contexts.tokens.cpu().numpy(), []
        for context in np.split(tokens, contexts.lengths.cumsum(0)[:-1].numpy()):
            digest, own = hashlib.sha256(), []
            for item in range((len(context) - 1) // self._num_levels):
                digest.update(context[self._slots(item)].tobytes())
                own.append(digest.digest())  # of all so far: going on needs no second pass
            keys.append(own)
        return keys

    def _find(self, keys: list[bytes]) -> list[Tensor]:
        """The blocks of the first items, until one is missing."""
        blocks: list[Tensor] = []
        with self._lock:
            for key in keys:
                block = self._blocks.get(key)
                if block is None:
                    break
                blocks.append(block)
        return blocks


def _nbytes(key: bytes, block: Tensor) -> int:
    return len(key) + block.nbytes
