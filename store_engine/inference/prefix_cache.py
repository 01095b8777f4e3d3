"""Keys and values of histories seen before: a user's next request computes the new items only.

The memory is split by item: a block holds the tokens of one item, for all layers, and is found by
the SHA-256 of all tokens up to its end. So two users whose histories begin alike share those
blocks, and nobody can construct a history that matches the blocks of a different one. The block
that was not used for the longest time goes first; of one history's blocks, the last item's. What a
block holds depends on the model's weights: new weights need a new cache.
Source: Kwon et al. 2023 (vLLM's prefix caching), https://arxiv.org/abs/2309.06180.
"""

import hashlib
import threading
from collections import OrderedDict
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from store_engine.inference.prefill_batch import PrefillBatch


class PrefixMatch(NamedTuple):
    """What `match_prefix` found.

    Attributes:
        num_known: (batch,) int64 on the CPU, how many of each context's first tokens are known.
            Always fewer than it has, because the state at its last token is still to be computed.
        block_hashes: Per context the hashes of its blocks, for `insert`.
    """

    num_known: Tensor
    block_hashes: list[list[bytes]]


class PrefixCache:
    """Least-recently-used cache of context blocks. Safe to call from several threads.

    A history that was cut to its last `max_history` items begins anew and shares nothing with the
    one before.

    Args:
        max_mib: Most memory that the blocks may hold.
        tokens_per_item: Tokens that a history reads per item.

    Raises:
        ValueError: `max_mib` is not positive.
    """

    def __init__(self, max_mib: float, tokens_per_item: int) -> None:
        if max_mib <= 0:
            raise ValueError(f"max_mib must be positive, got {max_mib}")
        self._max_bytes = int(max_mib * 2**20)
        self._tokens_per_item = tokens_per_item
        # by hash: (num_layers, 2, num_tokens, num_kv_heads, head_dim), oldest use first
        self._blocks: OrderedDict[bytes, Tensor] = OrderedDict()
        self._lock = threading.Lock()
        self.nbytes = 0

    def match_prefix(self, batch: PrefillBatch, layers: Tensor) -> PrefixMatch:
        """Copies what is known of each context into its slots.

        Args:
            batch: The histories.
            layers: `KVCache.layers`, started for them; their first slots are written.
        """
        num_known, hashes = torch.zeros_like(batch.lengths), self._hash_blocks(batch)
        for request, (length, own) in enumerate(zip(batch.lengths.tolist(), hashes, strict=True)):
            blocks = self._find(own)
            if blocks:
                known = torch.cat(blocks, dim=2)[:, :, : length - 1]
                num_known[request] = known.shape[2]
                layers[:, :, request, : known.shape[2]] = known
        return PrefixMatch(num_known, hashes)

    def insert(self, block_hashes: list[list[bytes]], layers: Tensor) -> None:
        """Keeps a copy of every block of a batch, which prefill has written or copied.

        Args:
            block_hashes: What `match_prefix` gave for the batch.
            layers: `KVCache.layers`, filled.
        """
        with self._lock:
            for request, own in enumerate(block_hashes):
                # an earlier item's block is useful without the later ones, so it is used last
                for item, block_hash in reversed(list(enumerate(own))):
                    block = self._blocks.pop(block_hash, None)
                    if block is None:
                        block = layers[:, :, request, self._slots(item)].clone()
                        self.nbytes += _nbytes(block_hash, block)
                    self._blocks[block_hash] = block
            while self.nbytes > self._max_bytes:
                self.nbytes -= _nbytes(*self._blocks.popitem(last=False))

    def clear(self) -> None:
        """Forgets everything."""
        with self._lock:
            self._blocks.clear()
            self.nbytes = 0

    def _slots(self, item: int) -> slice:
        """Where a context holds its n-th item. <bos> joins the first."""
        end = 1 + self._tokens_per_item * (item + 1)
        return slice(end - self._tokens_per_item if item else 0, end)

    def _hash_blocks(self, batch: PrefillBatch) -> list[list[bytes]]:
        """Per context, per item: the SHA-256 of all tokens up to the item's last."""
        tokens, hashes = batch.tokens.cpu().numpy(), []
        for context in np.split(tokens, batch.lengths.cumsum(0)[:-1].numpy()):
            digest, own = hashlib.sha256(), []
            for item in range((len(context) - 1) // self._tokens_per_item):
                digest.update(context[self._slots(item)].tobytes())
                own.append(digest.digest())  # of all so far: going on needs no second pass
            hashes.append(own)
        return hashes

    def _find(self, block_hashes: list[bytes]) -> list[Tensor]:
        """The blocks of the first items, until one is missing."""
        blocks: list[Tensor] = []
        with self._lock:
            for block_hash in block_hashes:
                block = self._blocks.get(block_hash)
                if block is None:
                    break
                blocks.append(block)
        return blocks


def _nbytes(block_hash: bytes, block: Tensor) -> int:
    return len(block_hash) + block.nbytes
