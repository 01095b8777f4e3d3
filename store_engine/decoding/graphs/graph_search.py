"""The beam search as one launch: a captured graph per shape, over a catalogue on the device.

Histories are padded to the next of a few shapes, so that few graphs serve all requests; the graph
of a shape is made when it is first asked for (`Engine.warm_up` asks beforehand) and kept. All
graphs share their memory, so one runs at a time.
"""

import threading
from collections import OrderedDict
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from store_engine._C import RowSet
from store_engine.catalog.catalog_view import CatalogView, StaticView
from store_engine.catalog.resident.device_catalog import DeviceCatalog, Wanted
from store_engine.catalog.resident.host_arrays import HostArrays
from store_engine.decoding.graphs.device_evidence import DeviceEvidence, SparseEvidence
from store_engine.decoding.graphs.static_search import (
    Best,
    SearchShape,
    StaticSearch,
    num_cache_numbers,
)
from store_engine.inference.device_graph import DeviceGraph, graph_pool
from store_engine.inference.gpu_model import GpuModel
from store_engine.kernels.trie_topk import Normalize

MAX_CONTEXT = 4096  # tokens of a history; a longer one is not padded, and not searched here
_MIN_CONTEXT, _CONTEXT_STEP = 64, 1024  # the smallest; beyond this many it is the step
_MAX_BATCH, _MAX_SLOTS = 64, 1 << 15  # of one graph; slots of its cache, but for one large request
_MIN_EXCLUDED = 16
_MAX_GRAPHS = 32

Rows = NDArray[np.int64]


class Requests(NamedTuple):
    """What is asked for; lists of one entry per request.

    Attributes:
        histories: Catalogue rows, oldest first.
        allowed: The set that each may be given; None: everything.
        excluded: The trie's rows that each may not be given.
        events: Catalogue rows that evidence reads, oldest first.
    """

    histories: list[Rows]
    allowed: list[RowSet | None]
    excluded: list[Rows]
    events: list[Rows]

    def batch(self, begin: int, end: int) -> "Requests":
        """Returns some of them."""
        cut = slice(begin, end)
        return Requests(
            self.histories[cut], self.allowed[cut], self.excluded[cut], self.events[cut]
        )

    @property
    def have_filter(self) -> bool:
        """Some request may not be given everything."""
        return any(one is not None for one in self.allowed) or any(map(len, self.excluded))


class Sizes(NamedTuple):
    """How much is searched for."""

    beam_width: int  # prefixes kept at each level
    num_items: int  # wanted of the beams; there may be more in the result
    num_named: int = 0  # items that each matrix of the evidence names; 0: there is no evidence


class _Graph(NamedTuple):
    search: StaticSearch
    graph: DeviceGraph


class GraphSearch:
    """Searches by graphs. Safe to call from several threads, which wait for each other.

    Args:
        model: The model.
    """

    def __init__(self, model: GpuModel) -> None:
        self._model, self._device = model, model.decoder.device
        self._catalog = DeviceCatalog(self._device)
        self._evidence = DeviceEvidence(self._device)
        self._pool = graph_pool(self._device)
        self._memory = torch.zeros(0, dtype=model.decoder.dtype, device=self._device)
        self._graphs: OrderedDict[tuple[object, ...], _Graph] = OrderedDict()  # oldest use first
        self._generations = (0, 0)
        self._lock = threading.Lock()
        self._coming: CatalogView | None = None  # what is to be written, if a search does not
        self._writer: threading.Thread | None = None
        self._asking = threading.Lock()

    def hold_soon(self, view: CatalogView) -> None:
        """Writes a changed catalogue and its item sets to the device in the background.

        A search that comes before it is done writes, or waits for, what it needs.
        """
        with self._asking:
            self._coming = view
            if self._writer is None or not self._writer.is_alive():
                self._writer = threading.Thread(target=self._hold_what_comes, daemon=True)
                self._writer.start()

    @torch.inference_mode()
    def _hold_what_comes(self) -> None:
        while True:
            with self._asking:
                view, self._coming = self._coming, None
                if view is None:
                    self._writer = None
                    return
            static = view.compacted
            arrays = HostArrays.of(static)  # most of the work is done: no search waited for it
            with self._lock:
                needs_rows = self._catalog.rows is not None
                self._catalog.hold(static, needs_rows, arrays)
                self._catalog.hold_sets(static.sets)

    @torch.inference_mode()
    def search(
        self,
        view: StaticView,
        requests: Requests,
        sizes: Sizes,
        normalize: Normalize,
        evidence: SparseEvidence | None = None,
    ) -> Best:
        """Finds the best items after each history, as `beam_search` does.

        Args:
            view: The catalogue.
            requests: At least one, with histories of at most `MAX_CONTEXT` tokens.
            sizes: How much is searched for.
            normalize: What a softmax runs over.
            evidence: It `fits_a_device`; None where it names no items.
        """
        longest = 1 + view.tokens.shape[1] * max(map(len, requests.histories))
        context = _context(longest)
        num_columns = sizes.beam_width + sizes.num_named
        num_slots = context + num_columns * (view.trie.num_levels - 1)
        size = min(_MAX_BATCH, 1 << max(0, (_MAX_SLOTS // num_slots).bit_length() - 1))
        num_items = max(sizes.num_items, sizes.beam_width)
        shape = SearchShape(
            size, context, sizes.beam_width, num_items, normalize, None, sizes.num_named
        )
        found = [
            self._search(view, requests.batch(begin, begin + size), shape, evidence)
            for begin in range(0, len(requests.histories), size)
        ]
        return Best.joined(found)

    def _search(
        self,
        view: StaticView,
        requests: Requests,
        largest: SearchShape,
        evidence: SparseEvidence | None,
    ) -> Best:
        """Searches for a batch of at most the `largest` shape's."""
        num, wanted = len(requests.histories), None
        with self._lock:
            self._catalog.hold(view, needs_rows=evidence is not None)
            if evidence is not None:
                self._evidence.hold(evidence)
            if requests.have_filter:
                wanted = self._catalog.want(requests.allowed, requests.excluded)
            shape = largest._replace(batch=_at_least(num, 1), num_excluded=_room(wanted))
            search, graph = self._graph(self._model.with_slots(view.table.item_slots), shape)
            search.write(requests.histories, wanted, requests.events)
            best = search.read(graph.run(), num)
            if bool(best.is_bad.any()):
                self._memory.zero_()  # a masked NaN is still NaN: none may stay in the cache
            return best

    def _graph(self, model: GpuModel, shape: SearchShape) -> _Graph:
        """The graph of a shape, made where there is none."""
        generations = self._catalog.generation, self._evidence.generation
        if self._generations != generations:
            self._graphs.clear()  # what they read is gone
            self._generations = generations
        item_slots = model.decoder.item_slots
        tables = (item_slots.read, item_slots.written) if item_slots is not None else ()
        key = (shape, *map(id, tables))  # a graph keeps its tables, so no other has their id
        if key not in self._graphs:
            self._graphs[key] = self._make(model, shape)
            if len(self._graphs) > _MAX_GRAPHS:
                self._graphs.popitem(last=False)
        self._graphs.move_to_end(key)
        return self._graphs[key]

    def _make(self, model: GpuModel, shape: SearchShape) -> _Graph:
        held = model, self._catalog, self._evidence, shape
        size = num_cache_numbers(*held)
        if size > len(self._memory):
            self._graphs.clear()
            self._memory = self._memory.new_zeros(size)
        search = StaticSearch(*held, self._memory)
        return _Graph(search, DeviceGraph(search.run, search.inputs, self._device, self._pool))


def _at_least(number: int, least: int, factor: int = 2) -> int:
    """The first of least, least * factor, least * factor^2, ... that is not below a number."""
    while least < number:
        least *= factor
    return least


def _context(num_tokens: int) -> int:
    """Tokens that histories are padded to: a power of two, beyond 1,024 a multiple of it."""
    if num_tokens > _CONTEXT_STEP:
        return -(-num_tokens // _CONTEXT_STEP) * _CONTEXT_STEP
    return _at_least(num_tokens, _MIN_CONTEXT)


def _room(wanted: Wanted | None) -> int | None:
    """Places for what each request excludes; None without a filter."""
    if wanted is None:
        return None
    most = max(map(len, wanted.excluded))
    return _at_least(most, _MIN_EXCLUDED, factor=4) if most else 0
