"""Keys and values of histories seen before: a user's next request computes the new items only.

The memory is split by item: a block holds the tokens of one item, for all layers, and is found by
the bytes of all tokens up to its end. So histories that begin alike share their blocks, whoever's
they are. The block that was not used for the longest time goes first; of one history's blocks, the
last item's. What a block holds depends on the model's weights: new weights need a new cache.
Source: Kwon et al. 2023 (vLLM's prefix caching), https://arxiv.org/abs/2309.06180.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterator

import torch
from torch import Tensor

from store_engine.decoding.contexts import Contexts


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
        # by prefix: (num_layers, 2, num_tokens, num_kv_heads, head_dim), oldest use first
        self._blocks: OrderedDict[bytes, Tensor] = OrderedDict()
        self._lock = threading.Lock()
        self.nbytes = 0

    def restore(self, contexts: Contexts, layers: Tensor) -> Tensor:
        """Copies what is known of each context into its slots.

        Args:
            contexts: The histories.
            layers: `KVCache.layers`, started for them; their first slots are written.

        Returns:
            (batch,) int64 on the CPU: how many of each context's first tokens are known.
            Always fewer than it has, because the state at its last token is still to be computed.
        """
        num_known = torch.zeros_like(contexts.lengths)
        for request, keys in enumerate(self._keys(contexts)):
            blocks = self._find(keys)
            if blocks:
                known = torch.cat(blocks, dim=2)[:, :, : int(contexts.lengths[request]) - 1]
                num_known[request] = known.shape[2]
                layers[:, :, request, : known.shape[2]] = known
        return num_known

    def store(self, contexts: Contexts, layers: Tensor) -> None:
        """Keeps a copy of every block of the contexts, which prefill has written or restored."""
        with self._lock:
            for request, keys in enumerate(self._keys(contexts)):
                begins = [0, *(end for _, end in keys)]
                # an earlier item's block is useful without the later ones, so it is used last
                for (key, end), begin in reversed(list(zip(keys, begins, strict=False))):
                    block = self._blocks.pop(key, None)
                    if block is None:
                        block = layers[:, :, request, begin:end].clone()
                        self.nbytes += _nbytes(key, block)
                    self._blocks[key] = block
            while self.nbytes > self._max_bytes:
                self.nbytes -= _nbytes(*self._blocks.popitem(last=False))

    def _keys(self, contexts: Contexts) -> Iterator[list[tuple[bytes, int]]]:
        """Per context, per item: the bytes of all tokens up to the item's last, and their number.

        <bos> joins the first item.
        """
        tokens = contexts.tokens.cpu().numpy()
        begin = 0
        for length in contexts.lengths.tolist():
            data = tokens[begin : begin + length].tobytes()
            ends = range(1 + self._num_levels, length + 1, self._num_levels)
            yield [(data[: end * tokens.itemsize], end) for end in ends]
            begin += length

    def _find(self, keys: list[tuple[bytes, int]]) -> list[Tensor]:
        """The blocks of the first items, until one is missing."""
        blocks: list[Tensor] = []
        with self._lock:
            for key, _ in keys:
                block = self._blocks.get(key)
                if block is None:
                    break
                blocks.append(block)
        return blocks


def _nbytes(key: bytes, block: Tensor) -> int:
    return len(key) + block.nbytes
