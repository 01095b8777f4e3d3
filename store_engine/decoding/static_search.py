"""One beam search of fixed shapes, from tokens to items, that a CUDA graph can hold.

Contexts are padded to one length and batches to one size; a request that pads the batch has one
token and no beam. The cache holds the contexts, then, from a fixed slot, the beam tree: a block per
level, written in place. A level has as many beams as there may ever be; those that there are not
count for nothing. No operation waits, and no shape depends on what is found.
"""

import functools
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from store_engine.catalog.device_catalog import DeviceCatalog, Wanted
from store_engine.inference.device_graph import Inputs
from store_engine.inference.gpu_model import (
    BeamAttention,
    GpuModel,
    PrefillAttention,
    Tokens,
    rope_table,
)
from store_engine.inference.item_logits import item_logits
from store_engine.kernels.rank_leaves import RankedItems, rank_leaves
from store_engine.kernels.tree_attention import BeamTree
from store_engine.kernels.trie_select import Backpointers, Filter, trie_select
from store_engine.kernels.trie_topk import Beams, Normalize


class SearchShape(NamedTuple):
    """All that the operations of a search depend on, but for addresses."""

    batch: int
    context: int  # tokens of each history
    beam_width: int  # prefixes kept at each level
    num_items: int  # wanted
    normalize: Normalize  # what a softmax runs over
    num_excluded: int | None  # items that each request may leave out; None: there is no filter


class Best(NamedTuple):
    """The best items of each request, best first, on the CPU."""

    rows: NDArray[np.int64]  # (batch, num_items) catalogue rows; -1 for none
    logprobs: NDArray[np.float32]  # likewise; -inf for none
    is_bad: Tensor  # (batch,) bool: the logits of a beam were NaN or +inf


class StaticSearch:
    """A search of one shape: `write` the inputs, send them, `run`, and `read` what comes back.

    Args:
        model: The model.
        catalog: Holds a catalogue; later ones in the same memory are searched as well.
        shape: The shape.
        memory: Numbers of the model's dtype for the cache, at least `num_cache_numbers`.
    """

    def __init__(
        self, model: GpuModel, catalog: DeviceCatalog, shape: SearchShape, memory: Tensor
    ) -> None:
        self._model, self._catalog, self._shape = model, catalog, shape
        self._widths = level_widths(catalog, shape)
        cache_shape = _cache_shape(model, catalog, shape)
        self._cache = memory[: cache_shape.numel()].view(cache_shape)
        config, device = model.decoder.config, model.decoder.device
        self._rope = rope_table(config, shape.context + len(self._widths), device)
        first = cache_shape[3] * torch.arange(shape.batch, dtype=torch.int32)[:, None]
        slots = (first + torch.arange(shape.context, dtype=torch.int32)).flatten()
        positions = torch.arange(shape.context, dtype=torch.int32).repeat(shape.batch)
        self._context = Tokens(*self._rope, positions.to(device), slots.to(device))
        tree = [] if model.decoder.has_heads else self._widths[:-1]
        self._blocks = _blocks(tree)
        num_tree = sum(tree)
        tree_slots = first + shape.context + torch.arange(num_tree, dtype=torch.int32)
        self._tree_slots = [
            tree_slots[:, block.begin : block.end].flatten().contiguous().to(device)
            for block in self._blocks
        ]
        new = functools.partial(torch.full, dtype=torch.int32, device=device)
        self._parents = new((shape.batch, num_tree), -1)
        self._counters = new((shape.batch * max(self._widths) * config.num_heads,), 0)
        self.inputs = Inputs(self._input_shapes(num_tree), device)
        root = torch.zeros(shape.batch, 1, dtype=torch.int32, device=device)
        self._root = Beams(root.float(), root, root, root, root[:, 0], root[:, 0].bool())

    def _input_shapes(self, num_tree_slots: int) -> dict[str, tuple[int, ...]]:
        shape = self._shape
        return {
            "tokens": (shape.batch, shape.context),
            "lengths": (shape.batch,),
            "last_rows": (shape.batch,),  # of each history's last token
            "num_valid": (shape.batch,),  # beams at the root
            "positions": (shape.batch * num_tree_slots,),  # of the blocks, one behind the other
            "set_index": (shape.batch,),
            "excluded": (shape.batch, shape.num_excluded or 0),
        }

    def write(self, histories: list[NDArray[np.int64]], wanted: Wanted | None) -> None:
        """Writes the inputs of up to `batch` requests.

        Args:
            histories: Catalogue rows of each.
            wanted: What each may be given; None: everything.
        """
        arrays, shape, model = self.inputs.arrays, self._shape, self._model
        tokens, lengths = arrays["tokens"], arrays["lengths"]
        tokens.fill(model.input_ids(np.array(model.bos)))
        lengths.fill(1)
        for request, rows in enumerate(histories):
            read = model.input_ids(self._catalog.history_tokens[rows]).reshape(-1)
            tokens[request, 1 : 1 + len(read)] = read
            lengths[request] += len(read)
        arrays["last_rows"][:] = shape.context * np.arange(shape.batch) + lengths - 1
        arrays["num_valid"][:] = np.arange(shape.batch) < len(histories)
        widths = self._widths[: len(self._blocks)]
        positions = [np.repeat(lengths + depth, width) for depth, width in enumerate(widths)]
        arrays["positions"][:] = np.concatenate([lengths[:0], *positions])
        if wanted is not None:
            arrays["set_index"].fill(-1)
            arrays["set_index"][: len(histories)] = wanted.set_index
            arrays["excluded"].fill(self._catalog.num_items)
            for request, places in enumerate(wanted.excluded):
                arrays["excluded"][request, : len(places)] = places

    def run(self) -> Tensor:
        """Searches: the memory of `RankedItems`, for `read`."""
        tensors, decoder = self.inputs.tensors, self._model.decoder
        state = self._model.transformer(
            self._model.embed(tensors["tokens"].flatten()),
            self._context,
            self._cache,
            PrefillAttention(self._shape.context),
            tensors["last_rows"],
        )[:, None]
        tree_tokens, states = self._tree_tokens(), state
        beams = self._root._replace(num_valid=tensors["num_valid"])
        for level, width in enumerate(self._widths):
            if decoder.has_heads:
                states = decoder.head_states(state, level)
            elif level:
                states = self._step(level, beams, tree_tokens[level - 1])
                states = states + state if decoder.source.skip else states
            beams = self._select(self._logits(states, level, beams), beams, level, width)
        return rank_leaves(
            beams,
            self._catalog.leaf_begin,
            self._shape.num_items,
            self._catalog.leaf_room,
            filter=self._filter(len(self._widths) - 1),
            backend=self._model.transformer.kernels,
        )

    def read(self, output: Tensor, num_requests: int) -> Best:
        """Reads the result of `run`, once it is on the CPU, for the first requests."""
        ranked = RankedItems.of(output[:num_requests])
        rows = self._catalog.rows_of_places(ranked.places.numpy())
        return Best(rows, ranked.scores.numpy().copy(), ranked.is_bad.bool())

    def _tree_tokens(self) -> list[Tokens]:
        """Where the beams of every level stand."""
        sizes = [len(slots) for slots in self._tree_slots]
        positions = self.inputs.tensors["positions"].split(sizes)
        return [Tokens(*self._rope, *one) for one in zip(positions, self._tree_slots, strict=True)]

    def _step(self, level: int, beams: Beams, tokens: Tokens) -> Tensor:
        """Runs the beams of the level before through the model: (batch, width, hidden_size)."""
        transformer, lengths = self._model.transformer, self.inputs.tensors["lengths"]
        embedded = self._model.embed_codes(beams.tokens.flatten(), level - 1)
        width = beams.tokens.shape[1]
        tree = BeamTree(self._parents, self._blocks[level - 1].begin, level)
        attend = BeamAttention(lengths, tree, width, self._counters, transformer.kernels)
        states = transformer(embedded, tokens, self._cache, attend)
        return states.unflatten(0, beams.tokens.shape)

    def _logits(self, states: Tensor, level: int, beams: Beams) -> Tensor:
        """What may follow each beam: (batch, width, codebook_size)."""
        decoder, places = self._model.decoder, self._catalog.places
        if not decoder.is_item_level(level):
            logits = decoder.level_logits(states.flatten(0, 1), level)
            logits = logits.unflatten(0, states.shape[:2])
            return logits.expand(-1, beams.nodes.shape[1], -1)
        assert decoder.item_slots is not None
        assert decoder.item_slots.written is not None
        assert places is not None
        prefixes = places.prefix_of_node[beams.nodes.clamp(min=0)]
        prefixes = prefixes.masked_fill(beams.nodes < 0, -1)
        return item_logits(states, decoder.item_slots.written, places.slots, prefixes)

    def _select(self, logits: Tensor, beams: Beams, level: int, width: int) -> Beams:
        back = None
        if 0 < level < len(self._blocks):  # the first block's parent is the context
            before, block = self._blocks[level - 1 : level + 1]
            back = Backpointers(self._parents, block.begin, before.begin)
        return trie_select(
            logits,
            beams,
            self._catalog.level(level),
            width,
            normalize=self._shape.normalize,
            filter=self._filter(level),
            back=back,
            backend=self._model.transformer.kernels,
        )

    def _filter(self, level: int) -> Filter | None:
        """What each request may be given, of a level's children."""
        if self._shape.num_excluded is None:
            return None
        tensors = self.inputs.tensors
        return self._catalog.filter(level, tensors["set_index"], tensors["excluded"])


class _Block(NamedTuple):
    """The beams of one level, as slots of the tree."""

    begin: int
    end: int


def _blocks(widths: list[int]) -> list[_Block]:
    """Lays the beam tree out: the beams of each level behind those of the level before."""
    ends = np.cumsum(widths, dtype=np.int64).tolist()
    return [_Block(end - width, end) for end, width in zip(ends, widths, strict=True)]


def level_widths(catalog: DeviceCatalog, shape: SearchShape) -> list[int]:
    """Returns the beams kept at each level."""
    return [min(shape.beam_width, room) for room in catalog.capacity[1:]]


def num_cache_numbers(model: GpuModel, catalog: DeviceCatalog, shape: SearchShape) -> int:
    """Returns how many numbers a search's cache has."""
    return _cache_shape(model, catalog, shape).numel()


def _cache_shape(model: GpuModel, catalog: DeviceCatalog, shape: SearchShape) -> torch.Size:
    config, num_slots = model.decoder.config, shape.context
    if not model.decoder.has_heads:
        num_slots += sum(level_widths(catalog, shape)[:-1])
    heads = config.num_kv_heads, config.head_dim
    return torch.Size((config.num_layers, 2, shape.batch, num_slots, *heads))
