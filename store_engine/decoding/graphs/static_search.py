"""One beam search of fixed shapes, from tokens to items, that a CUDA graph can hold.

Contexts are padded to one length and batches to one size; a request that pads the batch has one
token and no beam. The cache holds the contexts, then, from a fixed slot, the beam tree, written in
place. A level has as many beams as there may ever be; those that there are not count for nothing.
With evidence, items that it names are walked beside the beams, and all are ranked by the sum. No
operation waits, and no shape depends on what is found.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from store_engine.catalog.resident.device_catalog import DeviceCatalog, Wanted
from store_engine.decoding.graphs.device_evidence import DeviceEvidence
from store_engine.decoding.graphs.named_paths import NamedPaths
from store_engine.decoding.graphs.static_tree import StaticTree, block_widths
from store_engine.inference.device_graph import Inputs
from store_engine.inference.gpu_model import (
    BeamAttention,
    GpuModel,
    PrefillAttention,
    Tokens,
    rope_table,
)
from store_engine.inference.item_logits import item_logits
from store_engine.kernels.rank_candidates import RankedCandidates, rank_candidates
from store_engine.kernels.rank_leaves import RankedItems, rank_leaves
from store_engine.kernels.trie_select import Filter, trie_select
from store_engine.kernels.trie_topk import Beams, Normalize


class SearchShape(NamedTuple):
    """All that the operations of a search depend on, but for addresses."""

    batch: int
    context: int  # tokens of each history
    beam_width: int  # prefixes kept at each level
    num_items: int  # that the beams are to find
    normalize: Normalize  # what a softmax runs over
    num_excluded: int | None  # items that each request may leave out; None: there is no filter
    num_named: int  # items that each matrix of the evidence names; 0: there is no evidence


class Best(NamedTuple):
    """The best items of each request, best first, on the CPU."""

    rows: NDArray[np.int64]  # (batch, num_items or more) catalogue rows; -1 for none
    logprobs: NDArray[np.float32]  # likewise; -inf for none
    evidence: NDArray[np.float32]  # likewise; 0 for none
    is_bad: Tensor  # (batch,) bool: the logits of a beam were NaN or +inf

    @classmethod
    def joined(cls, batches: list["Best"]) -> "Best":
        """Puts the requests of several batches together."""
        rows, logprobs, evidence, is_bad = zip(*batches, strict=True)
        evidences = np.concatenate(evidence)
        return cls(np.concatenate(rows), np.concatenate(logprobs), evidences, torch.cat(is_bad))


class StaticSearch:
    """A search of one shape: `write` the inputs, send them, `run`, and `read` what comes back.

    Args:
        model: The model.
        catalog: Holds a catalogue; later ones in the same memory are searched as well.
        evidence: Holds evidence, or none where the shape names no items; likewise.
        shape: The shape.
        memory: Numbers of the model's dtype for the cache, at least `num_cache_numbers`.
    """

    def __init__(
        self,
        model: GpuModel,
        catalog: DeviceCatalog,
        evidence: DeviceEvidence,
        shape: SearchShape,
        memory: Tensor,
    ) -> None:
        self._model, self._catalog, self._evidence, self._shape = model, catalog, evidence, shape
        self._widths = level_widths(catalog, shape)
        config, device = model.decoder.config, model.decoder.device
        cache_shape = _cache_shape(model, catalog, evidence, shape)
        self._cache = memory[: cache_shape.numel()].view(cache_shape)
        self._rope = rope_table(config, shape.context + len(self._widths), device)

        first = cache_shape[3] * torch.arange(shape.batch, dtype=torch.int32)[:, None]
        context = torch.arange(shape.context, dtype=torch.int32)
        positions, slots = context.repeat(shape.batch), (first + context).flatten()
        self._context = Tokens(*self._rope, positions.to(device), slots.to(device))
        beam_widths = [] if model.decoder.has_heads else self._widths[:-1]
        num_named = shape.num_named * evidence.num_matrices
        self._tree = StaticTree(beam_widths, num_named, first + shape.context, device)
        num_counters = shape.batch * config.num_heads * max(self._tree.widths, default=0)
        self._counters = torch.zeros(num_counters, dtype=torch.int32, device=device)
        self.inputs = Inputs(self._input_shapes(), device)

        root = torch.zeros(shape.batch, 1, dtype=torch.int32, device=device)
        self._root = Beams(root.float(), root, root, root, root[:, 0], root[:, 0].bool())
        self._nothing = torch.zeros(shape.batch, num_named, device=device)
        named = torch.arange(num_named, dtype=torch.int32, device=device).repeat(shape.batch, 1)
        self._first_columns = torch.zeros_like(named)
        self._columns = [width + named for width in (1, *self._widths[:-1])]

    def _input_shapes(self) -> dict[str, tuple[int, ...]]:
        shape = self._shape
        return {
            "tokens": (shape.batch, shape.context),
            "lengths": (shape.batch,),
            "last_rows": (shape.batch,),  # of each history's last token
            "num_valid": (shape.batch,),  # beams at the root
            "positions": (shape.batch * sum(self._tree.widths),),  # block behind block
            "set_index": (shape.batch,),
            "excluded": (shape.batch, shape.num_excluded or 0),
            "events": (shape.batch, self._evidence.window if shape.num_named else 0),
        }

    def write(
        self,
        histories: list[NDArray[np.int64]],
        wanted: Wanted | None,
        events: list[NDArray[np.int64]],
    ) -> None:
        """Writes the inputs of up to `batch` requests.

        Args:
            histories: Catalogue rows of each that the model reads.
            wanted: What each may be given; None: everything.
            events: Catalogue rows of each that the evidence reads.
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
        arrays["positions"][:] = self._tree.positions(lengths)
        if wanted is not None:
            arrays["set_index"].fill(-1)
            arrays["set_index"][: len(histories)] = wanted.set_index
            arrays["excluded"].fill(self._catalog.num_items)
            for request, places in enumerate(wanted.excluded):
                arrays["excluded"][request, : len(places)] = places
        if shape.num_named:
            self._evidence.write_events(events, arrays["events"])

    def run(self) -> Tensor:
        """Searches: the memory of `RankedItems` or `RankedCandidates`, for `read`."""
        tensors, decoder = self.inputs.tensors, self._model.decoder
        state = self._model.transformer(
            self._model.embed(tensors["tokens"].flatten()),
            self._context,
            self._cache,
            PrefillAttention(self._shape.context),
            tensors["last_rows"],
        )[:, None]
        named, tree_tokens, states = self._named(), self._tree_tokens(), state
        beams = self._root._replace(num_valid=tensors["num_valid"])
        for level, width in enumerate(self._widths):
            if decoder.has_heads:
                states = decoder.head_states(state, level)
            elif level:
                states = self._step(level, beams, named, tree_tokens[level - 1])
                states = states + state if decoder.source.skip else states
            logits = self._logits(states, level, beams, named)
            if named is not None:
                is_shared = logits.shape[1] == 1
                columns = self._first_columns if is_shared else self._columns[level]
                named.add(level, logits, columns)
            beams = self._select(logits, beams, level, width)
        ranked = rank_leaves(
            beams,
            self._catalog.leaf_begin,
            self._shape.num_items,
            self._catalog.leaf_room,
            filter=self._filter(len(self._widths) - 1),
            backend=self._model.transformer.kernels,
        )
        return ranked if named is None else self._rank_with_evidence(RankedItems.of(ranked), named)

    def read(self, output: Tensor, num_requests: int) -> Best:
        """Reads the result of `run`, once it is on the CPU, for the first requests."""
        output, rows_of = output[:num_requests], self._catalog.rows_of_places
        if self._shape.num_named:
            *parts, places, is_bad = RankedCandidates.of(output)
            logprobs, evidence = (part.numpy().copy() for part in parts)
        else:
            scores, places, is_bad = RankedItems.of(output)
            logprobs = scores.numpy().copy()
            evidence = np.zeros_like(logprobs)
        return Best(rows_of(places.numpy()), logprobs, evidence, is_bad.bool())

    def _named(self) -> NamedPaths | None:
        """The items that evidence names; None without evidence."""
        if not self._shape.num_named:
            return None
        rows, kernels = self._catalog.rows, self._model.transformer.kernels
        assert rows is not None
        found = self._evidence.top(
            self.inputs.tensors["events"],
            rows.place_of_row,
            self._shape.num_named,
            self._filter(len(self._widths) - 1),
            kernels,
        )
        return NamedPaths(found, rows, self._nothing, kernels)

    def _rank_with_evidence(self, found: RankedItems, named: NamedPaths) -> Tensor:
        """Ranks what the beams found and what was named by log-probability plus evidence."""
        rows, kernels = self._catalog.rows, self._model.transformer.kernels
        assert rows is not None
        places = torch.cat([found.places, named.places], 1)
        items = rows.row_of_place[places]
        return rank_candidates(
            torch.cat([found.scores, named.scores], 1),
            self._evidence.score(self.inputs.tensors["events"], items, kernels),
            places,
            found.is_bad.bool(),
            found.places.shape[1],
            backend=kernels,
        )

    def _tree_tokens(self) -> list[Tokens]:
        """Where the tokens of every block stand."""
        slots = self._tree.slots
        positions = self.inputs.tensors["positions"].split([len(block) for block in slots])
        return [Tokens(*self._rope, *one) for one in zip(positions, slots, strict=True)]

    def _step(self, level: int, beams: Beams, named: NamedPaths | None, tokens: Tokens) -> Tensor:
        """Runs the block of the level before through the model: (batch, width, hidden_size)."""
        codes = beams.tokens
        if named is not None:
            codes = torch.cat([codes, named.codes(level - 1)], 1)
        transformer, block = self._model.transformer, self._tree.block(level - 1)
        lengths, width = self.inputs.tensors["lengths"], codes.shape[1]
        attend = BeamAttention(lengths, block, width, self._counters, transformer.kernels)
        embedded = self._model.embed_codes(codes.flatten(), level - 1)
        return transformer(embedded, tokens, self._cache, attend).unflatten(0, codes.shape)

    def _logits(self, states: Tensor, level: int, beams: Beams, named: NamedPaths | None) -> Tensor:
        """What may follow each column: (batch, num_columns, codebook_size), 1 column for all."""
        decoder, places = self._model.decoder, self._catalog.places
        if not decoder.is_item_level(level):
            logits = decoder.level_logits(states.flatten(0, 1), level)
            return logits.unflatten(0, (len(states), -1))
        assert decoder.item_slots is not None
        assert decoder.item_slots.written is not None
        assert places is not None
        prefixes = places.prefix_of_node[beams.nodes.clamp(min=0)]
        prefixes = prefixes.masked_fill(beams.nodes < 0, -1)
        if named is not None:
            prefixes = torch.cat([prefixes, named.prefixes], 1)
        return item_logits(states, decoder.item_slots.written, places.slots, prefixes)

    def _select(self, logits: Tensor, beams: Beams, level: int, width: int) -> Beams:
        num_beams = beams.nodes.shape[1]
        is_shared = logits.shape[1] == 1
        return trie_select(
            logits.expand(-1, num_beams, -1) if is_shared else logits[:, :num_beams],
            beams,
            self._catalog.level(level),
            width,
            normalize=self._shape.normalize,
            filter=self._filter(level),
            back=self._tree.back(level),
            backend=self._model.transformer.kernels,
        )

    def _filter(self, level: int) -> Filter | None:
        """What each request may be given, of a level's children."""
        if self._shape.num_excluded is None:
            return None
        tensors = self.inputs.tensors
        return self._catalog.filter(level, tensors["set_index"], tensors["excluded"])


def level_widths(catalog: DeviceCatalog, shape: SearchShape) -> list[int]:
    """Returns the beams kept at each level."""
    return [min(shape.beam_width, room) for room in catalog.capacity[1:]]


def num_cache_numbers(
    model: GpuModel, catalog: DeviceCatalog, evidence: DeviceEvidence, shape: SearchShape
) -> int:
    """Returns how many numbers a search's cache has."""
    return _cache_shape(model, catalog, evidence, shape).numel()


def _cache_shape(
    model: GpuModel, catalog: DeviceCatalog, evidence: DeviceEvidence, shape: SearchShape
) -> torch.Size:
    config, num_slots = model.decoder.config, shape.context
    if not model.decoder.has_heads:
        num_named = shape.num_named * evidence.num_matrices
        num_slots += sum(block_widths(level_widths(catalog, shape)[:-1], num_named))
    heads = config.num_kv_heads, config.head_dim
    return torch.Size((config.num_layers, 2, shape.batch, num_slots, *heads))
