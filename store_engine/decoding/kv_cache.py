"""Keys and values of a batch being decoded: each request's context, then its beam tree.

Per layer the cache is (batch, num_slots, num_kv_heads, head_dim). Slots [0, max_context) hold the
contexts, slots from max_context on the beam tree: every level appends a block of one slot per beam.
A beam sees its request's context and its own ancestors; `visible` says which slots those are. So
the context stands once per request, not once per beam, and when beams are re-ranked only rows of
that mask move: keys and values are written once and never copied or reordered.

The memory is kept from batch to batch and grows when a batch needs more. Slots that nobody sees
hold zeros or what an earlier batch left there. Both must be finite (a masked NaN is still NaN): a
cache whose batch failed is thrown away.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from store_engine.config import ModelConfig
from store_engine.model.attention import Attend, PackedSequences


class KVCache:
    """The cache of one engine. Call `start` for each batch, then prefill, then decode.

    Args:
        config: Sizes of the model.
        device: Where the model is.
        dtype: Of the model.
    """

    def __init__(self, config: ModelConfig, device: torch.device, dtype: torch.dtype) -> None:
        self._config = config
        self._memory = torch.zeros(0, device=device, dtype=dtype)
        self._keys: list[Tensor] = []  # per layer (batch, num_slots, num_kv_heads, head_dim)
        self._values: list[Tensor] = []
        self._context_slots = torch.zeros(0, dtype=torch.int64)
        self.context_mask = torch.zeros(0, 0, dtype=torch.bool)

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
        config, device = self._config, self._memory.device
        batch, max_context = len(context_lengths), int(context_lengths.max())
        num_slots = max_context + num_tree_slots
        shape = (config.num_layers, 2, batch, num_slots, config.num_kv_heads, config.head_dim)
        size = torch.Size(shape).numel()
        if size > len(self._memory):
            self._memory = self._memory.new_zeros(size)
        layers = self._memory[:size].view(shape)
        self._keys = [layer[0] for layer in layers]
        self._values = [layer[1] for layer in layers]

        # (batch, max_context): which context slots are real
        is_real = torch.arange(max_context) < context_lengths[:, None]
        slots = torch.arange(batch)[:, None] * num_slots + torch.arange(max_context)
        self._context_slots = slots[is_real].to(device)
        self.context_mask = is_real.to(device)

    @property
    def max_context(self) -> int:
        """Slots of the longest context, which is where the beam tree begins."""
        return self.context_mask.shape[1]

    def prefill(self, sequences: PackedSequences) -> Attend:
        """Attention of the packed contexts, which also writes their keys and values."""

        def attend(layer_id: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            self._keys[layer_id].flatten(0, 1).index_copy_(0, self._context_slots, k)
            self._values[layer_id].flatten(0, 1).index_copy_(0, self._context_slots, v)
            return sequences(layer_id, q, k, v)

        return attend

    def decode(self, visible: Tensor, begin: int) -> Attend:
        """Attention of one block of beams, which also writes its keys and values.

        Args:
            visible: (batch, width, num_used) bool, the slots each beam sees, its own included.
            begin: First slot of the block.
        """
        batch, width, num_used = visible.shape
        kv_heads, head_dim = self._config.num_kv_heads, self._config.head_dim
        group = self._config.num_heads // kv_heads  # query heads that share one key
        # they become further query rows, so that the shared key is read once and never expanded
        mask = visible.repeat(1, group, 1)[:, None]

        def attend(layer_id: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            keys, values = self._keys[layer_id], self._values[layer_id]
            keys[:, begin : begin + width] = k.view(batch, width, kv_heads, head_dim)
            values[:, begin : begin + width] = v.view(batch, width, kv_heads, head_dim)
            q = q.view(batch, width, kv_heads, group, head_dim).permute(0, 2, 3, 1, 4)
            out = F.scaled_dot_product_attention(
                q.reshape(batch, kv_heads, group * width, head_dim),
                keys[:, :num_used].transpose(1, 2),
                values[:, :num_used].transpose(1, 2),
                attn_mask=mask,
            )
            out = out.view(batch, kv_heads, group, width, head_dim).permute(0, 3, 1, 2, 4)
            return out.reshape(batch * width, kv_heads * group, head_dim)

        return attend
