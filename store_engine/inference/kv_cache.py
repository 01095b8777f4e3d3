"""The memory of a batch being decoded: keys and values of its contexts and of its beam trees.

Per layer the cache is (batch, num_slots, num_kv_heads, head_dim). The first slots hold the
contexts, those after the longest context the beam tree: every level appends a block of one slot
per beam. A beam sees its request's context and its own ancestors, whose slots it lists. So the
context stands once per request, not once per beam, and when beams are re-ranked only those lists
move: keys and values are written once and never copied or reordered.

The memory is kept from batch to batch: it grows when a batch needs more. Slots that nobody sees
hold zeros or what an earlier batch left there. Both must be finite (a masked NaN is still NaN): a
cache whose batch failed is thrown away.
"""

import torch
from torch import Tensor

from store_engine.config import ModelConfig
from store_engine.inference.cache_attention import PrefillAttention, TreeAttention
from store_engine.inference.prefix_cache import PrefixCache
from store_engine.model.attention import PackedSequences


class KVCache:
    """The cache of one engine. Call `start` for each batch, then `prefill`, then `decode`.

    Args:
        config: Sizes of the model.
        device: Where the model is.
        dtype: Of the model.
        prefixes: Contexts of earlier batches: what they hold is copied, not computed again.
    """

    def __init__(
        self,
        config: ModelConfig,
        device: torch.device,
        dtype: torch.dtype,
        prefixes: PrefixCache | None = None,
    ) -> None:
        self._config = config
        self.prefixes = prefixes
        self._memory = torch.zeros(0, device=device, dtype=dtype)
        # (num_layers, 2, batch, num_slots, num_kv_heads, head_dim): keys are [:, 0], values [:, 1]
        self.layers = self._memory
        self._context_lengths = torch.zeros(0, dtype=torch.int64)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self._memory.nbytes

    def start(self, context_lengths: Tensor, num_tree_slots: int) -> None:
        """Makes room for a batch.

        Args:
            context_lengths: (batch,) int64 on the CPU, each at least 1.
            num_tree_slots: Beams of all levels that will be run through the model.
        """
        config, batch = self._config, len(context_lengths)
        num_slots = int(context_lengths.max()) + num_tree_slots
        shape = (config.num_layers, 2, batch, num_slots, config.num_kv_heads, config.head_dim)
        size = torch.Size(shape).numel()
        if size > len(self._memory):
            self._memory = self._memory.new_zeros(size)
        self.layers = self._memory[:size].view(shape)
        self._context_lengths = context_lengths

    def prefill(self, sequences: PackedSequences, num_known: Tensor) -> PrefillAttention:
        """Attention of the packed contexts, which also writes their keys and values.

        The last layer may ask for each context's last token alone.

        Args:
            sequences: Each context without its first `num_known` tokens; at least one is left.
            num_known: (batch,) int64 on the CPU, tokens whose keys and values are in the cache.
        """
        num_heads = self._config.num_heads
        return PrefillAttention(
            self.layers, num_heads, sequences, num_known, self._context_lengths - num_known
        )

    def decode(self, ancestors: Tensor, begin: int, *, use_triton: bool = False) -> TreeAttention:
        """Attention of a block of the beam tree, which also writes its keys and values.

        Args:
            ancestors: (batch, width, depth) int64, the tree's slots that each beam sees, counted
                from the tree's first; its own among them.
            begin: The block's first slot in the tree.
            use_triton: Attend with the kernel of kernels/beam_attention.py.
        """
        num_heads, lengths = self._config.num_heads, self._context_lengths
        return TreeAttention(self.layers, num_heads, lengths, ancestors, begin, use_triton)
