"""The memory of a batch being decoded: keys and values, what each beam sees, and logits.

Per layer the cache is (batch, num_slots, num_kv_heads, head_dim). Slots [0, max_context) hold the
contexts, slots from max_context on the beam tree: every level appends a block of one slot per beam.
A beam sees its request's context and its own ancestors; a mask says which slots those are. So the
context stands once per request, not once per beam, and when beams are re-ranked only rows of that
mask move: keys and values are written once and never copied or reordered.

All memory is made when a batch starts, and kept from batch to batch: it grows when a batch needs
more. Slots that nobody sees hold zeros or what an earlier batch left there. Both must be finite (a
masked NaN is still NaN): a cache whose batch failed is thrown away.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from store_engine.config import ModelConfig
from store_engine.decoding.prefix_cache import PrefixCache
from store_engine.kernels.beam_attention import beam_attention
from store_engine.model.attention import Attend, PackedSequences


class _Buffer:
    """Memory that grows to the largest size asked for."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self.memory = torch.zeros(0, device=device, dtype=dtype)

    def reserve(self, *shape: int) -> None:
        size = torch.Size(shape).numel()
        if size > len(self.memory):
            self.memory = self.memory.new_zeros(size)

    def view(self, *shape: int) -> Tensor:
        """The first numbers, in that shape."""
        return self.memory[: torch.Size(shape).numel()].view(shape)


class KVCache:
    """The cache of one engine. Call `start` for each batch, then prefill, then `grow` per level.

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
        self._kv, self._logits = _Buffer(device, dtype), _Buffer(device, dtype)
        # masks are added to attention's logits: 0 for a slot that is seen, else -inf
        self._masks = _Buffer(device, dtype), _Buffer(device, dtype)
        # (num_layers, 2, batch, num_slots, num_kv_heads, head_dim): keys are [:, 0], values [:, 1]
        self.layers = self._kv.memory
        self._context_lengths = torch.zeros(0, dtype=torch.int64)
        self._context_mask = self._mask = self._kv.memory

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        buffers = (self._kv, self._logits, *self._masks)
        return sum(buffer.memory.nbytes for buffer in buffers)

    @property
    def max_context(self) -> int:
        """Slots of the longest context, which is where the beam tree begins."""
        return self._context_mask.shape[1]

    def start(
        self, context_lengths: Tensor, num_tree_slots: int, width: int = 0, codebook_size: int = 0
    ) -> None:
        """Makes room for a batch.

        Args:
            context_lengths: (batch,) int64 on the CPU, each at least 1.
            num_tree_slots: Beams of all levels that will be run through the model.
            width: The most beams of one call of `grow`.
            codebook_size: The largest, for `logits`.
        """
        config, device = self._config, self.layers.device
        batch, max_context = len(context_lengths), int(context_lengths.max())
        num_slots = max_context + num_tree_slots
        shape = (config.num_layers, 2, batch, num_slots, config.num_kv_heads, config.head_dim)
        self._kv.reserve(*shape)
        self._logits.reserve(batch, width, codebook_size)
        for buffer in self._masks:
            buffer.reserve(batch, self._group, width, num_slots)
        self.layers = self._kv.view(*shape)
        self._context_lengths = context_lengths
        is_context = torch.arange(max_context) < context_lengths[:, None]
        self._context_mask = self._additive(is_context.to(device))
        self._mask = self._context_mask[:, None]  # (batch, width, slots): the root sees the context

    def logits(self, batch: int, width: int, codebook_size: int) -> Tensor:
        """Room for the logits of one level, overwritten by the next."""
        return self._logits.view(batch, width, codebook_size)

    def prefill(self, sequences: PackedSequences, num_known: Tensor) -> Attend:
        """Attention of the packed contexts, which also writes their keys and values.

        The last layer may ask for each context's last token alone.

        Args:
            sequences: Each context without its first `num_known` tokens; at least one is left.
            num_known: (batch,) int64 on the CPU, tokens whose keys and values are in the cache.
        """
        batch, num_new = len(num_known), self._context_lengths - num_known
        request = torch.arange(batch).repeat_interleave(num_new).to(sequences.device)
        position = sequences.positions + num_known.repeat_interleave(num_new).to(sequences.device)
        slots = request * self.layers.shape[3] + position
        attend_last = self._attend(self._grouped(self._context_mask[:, None]))
        attend_all: Attend = sequences
        if bool(num_known.any()):
            attend_all = self._attend_after(num_known, sequences, request)

        def attend(layer_id: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            keys, values = self.layers[layer_id].flatten(1, 2)
            keys.index_copy_(0, slots, k)
            values.index_copy_(0, slots, v)
            return attend_last(layer_id, q) if len(q) == batch else attend_all(layer_id, q, k, v)

        return attend

    def _attend_after(
        self, num_known: Tensor, sequences: PackedSequences, request: Tensor
    ) -> Attend:
        """Causal attention of packed sequences that go on after `num_known` tokens each."""
        batch, longest, device = len(num_known), sequences.max_length, request.device
        place = request * longest + sequences.positions  # of each token once padded
        last = num_known[:, None].to(device) + torch.arange(longest, device=device)
        slot = torch.arange(self.max_context, device=device)
        attend_padded = self._attend(self._grouped(self._additive(slot <= last[:, :, None])))

        def attend(layer_id: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            room = q.new_zeros(batch * longest, *q.shape[1:])
            return attend_padded(layer_id, room.index_copy_(0, place, q))[place]

        return attend

    def grow(self, parents: Tensor, *, use_triton: bool = False) -> Attend:
        """Attention of the next block of beams, which also writes their keys and values.

        Args:
            parents: (batch, width) int64, each beam's parent among those of the last block; zeros
                for the first. A beam sees what its parent sees, and itself.
            use_triton: Attend with the kernel of kernels/beam_attention.py.
        """
        batch, width = parents.shape
        before, begin = self._mask, self._mask.shape[2]
        self._masks = self._masks[::-1]
        mask = self._masks[0].view(batch, self._group, width, begin + width)
        index = parents[:, :, None].expand(-1, -1, begin)
        torch.gather(before, 1, index, out=mask[:, 0, :, :begin])
        mask[:, 0, :, begin:].fill_(-torch.inf).diagonal(dim1=1, dim2=2).fill_(0)
        mask[:, 1:] = mask[:, :1]
        self._mask = mask[:, 0]
        return self._attend_and_write(mask, begin, use_triton)

    def decode(self, visible: Tensor, begin: int) -> Attend:
        """Like `grow`, of a block anywhere in the tree.

        Args:
            visible: (batch, width, num_used) bool, the slots each beam sees, its own included;
                those of the context are not asked about.
            begin: First slot of the block.
        """
        context = self._context_mask[:, None].expand(-1, visible.shape[1], -1)
        mask = torch.cat([context, self._additive(visible)], dim=2)
        return self._attend_and_write(self._grouped(mask), self.max_context + begin)

    def _attend_and_write(self, mask: Tensor, begin: int, use_triton: bool = False) -> Attend:
        width = mask.shape[2]
        attend_visible = self._attend_triton(mask) if use_triton else self._attend(mask)

        def attend(layer_id: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            keys, values = self.layers[layer_id, :, :, begin : begin + width]
            keys.copy_(k.view_as(keys))
            values.copy_(v.view_as(values))
            return attend_visible(layer_id, q)

        return attend

    def _attend(self, mask: Tensor) -> Callable[[int, Tensor], Tensor]:
        """Attention from the same number of queries of each request to the slots that they see.

        Args:
            mask: (batch, group, width, num_used), 0 or -inf.

        Returns:
            A function of the layer and q (batch * width, num_heads, head_dim).
        """
        batch, group, width, num_used = mask.shape
        kv_heads, head_dim = self._config.num_kv_heads, self._config.head_dim
        # a group's query heads become further query rows, so that the key they share is read once
        # and never expanded
        mask = mask.view(batch, 1, group * width, num_used)

        def attend(layer_id: int, q: Tensor) -> Tensor:
            keys, values = self.layers[layer_id, :, :, :num_used].transpose(2, 3)
            q = q.view(batch, width, kv_heads, group, head_dim).permute(0, 2, 3, 1, 4)
            q = q.reshape(batch, kv_heads, group * width, head_dim)
            out = F.scaled_dot_product_attention(q, keys, values, attn_mask=mask)
            out = out.view(batch, kv_heads, group, width, head_dim).permute(0, 3, 1, 2, 4)
            return out.reshape(batch * width, kv_heads * group, head_dim)

        return attend

    def _attend_triton(self, mask: Tensor) -> Callable[[int, Tensor], Tensor]:
        """Like `_attend`. The kernel reads each context's real slots, and the tree's mask."""
        batch, _, width, num_used = mask.shape
        tree_mask = mask[:, 0, :, self.max_context :] == 0
        lengths = self._context_lengths.to(mask.device)

        def attend(layer_id: int, q: Tensor) -> Tensor:
            keys, values = self.layers[layer_id, :, :, :num_used]
            q = q.view(batch, width, *q.shape[1:])
            out = beam_attention(q, keys, values, lengths, tree_mask, backend="triton")
            return out.flatten(0, 1)

        return attend

    @property
    def _group(self) -> int:
        """Query heads that share one key."""
        return self._config.num_heads // self._config.num_kv_heads

    def _grouped(self, mask: Tensor) -> Tensor:
        """(batch, width, num_used) -> (batch, group, width, num_used)."""
        return mask[:, None].repeat(1, self._group, 1, 1)

    def _additive(self, visible: Tensor) -> Tensor:
        return torch.zeros_like(visible, dtype=self.layers.dtype).masked_fill_(~visible, -torch.inf)
