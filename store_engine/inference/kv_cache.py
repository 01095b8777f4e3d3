"""The memory of a batch being decoded: keys and values of its contexts and of its beam trees.

Per layer the cache is (batch, num_slots, num_kv_heads, head_dim). The first slots hold the
contexts, those after the longest context the beam tree: every level appends a block of one slot
per beam. A beam sees its request's context and its own ancestors, whose slots it lists. So the
context stands once per request, not once per beam, and when beams are re-ranked only those lists
move: keys and values are written once and never copied or reordered. How tokens join the cache and
attend to it is the business of `cache_attention`.

The memory is kept from batch to batch: it grows when a batch needs more. Slots that nobody sees
hold zeros or what an earlier batch left there. Both must be finite (a masked NaN is still NaN): a
cache whose batch failed is thrown away.
"""

import torch
from torch import Tensor

from store_engine.config import ModelConfig
from store_engine.inference.prefix_cache import PrefixCache


class KVCache:
    """The cache of one batch at a time. Call `start` for each batch.

    Args:
        config: Sizes of the model.
        device: Device of the model.
        dtype: Dtype of the model.
        prefixes: Contexts of earlier batches: what they hold is copied, not computed again.

    Attributes:
        layers: (num_layers, 2, batch, num_slots, num_kv_heads, head_dim), keys, then values.
        context_lengths: (batch,) int64 on the CPU.
        device_lengths: The same on the model's device.
        first_tree_slot: The slot after the longest context.
    """

    def __init__(
        self,
        config: ModelConfig,
        device: torch.device,
        dtype: torch.dtype,
        prefixes: PrefixCache | None = None,
    ) -> None:
        self.config = config
        self.prefixes = prefixes
        self._memory = torch.zeros(0, device=device, dtype=dtype)
        self.layers = self._memory
        self.context_lengths = torch.zeros(0, dtype=torch.int64)
        self.device_lengths = self.context_lengths
        self.first_tree_slot = 0

    @property
    def nbytes(self) -> int:
        """Returns the bytes of the memory that is held."""
        return self._memory.nbytes

    def start(self, context_lengths: Tensor, num_tree_slots: int) -> None:
        """Lays the memory out for a batch.

        Args:
            context_lengths: (batch,) int64 on the CPU, each at least 1.
            num_tree_slots: Beams of all levels that will be run through the model.
        """
        config, batch = self.config, len(context_lengths)
        self.first_tree_slot = int(context_lengths.max())
        num_slots = self.first_tree_slot + num_tree_slots
        shape = (config.num_layers, 2, batch, num_slots, config.num_kv_heads, config.head_dim)
        size = torch.Size(shape).numel()
        if size > len(self._memory):
            self._memory = self._memory.new_zeros(size)
        self.layers = self._memory[:size].view(shape)
        self.context_lengths = context_lengths
        self.device_lengths = context_lengths.to(self.layers.device)
