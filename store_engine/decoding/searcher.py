"""An engine's searches, batch after batch: what is read of each history, caches, and graphs."""

import contextlib
import threading
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from store_engine.catalog.catalog_view import CatalogView
from store_engine.decoding.backends import NonFiniteLogitsError, SearchSpace, kernels_of_graphs
from store_engine.decoding.evidence import Found
from store_engine.decoding.exact import score_catalog
from store_engine.decoding.graphs.graph_search import GraphSearch
from store_engine.decoding.search_batch import (
    Call,
    for_graph,
    search_batch,
    search_batch_by_graph,
)
from store_engine.inference.decoding_model import DecodingModel
from store_engine.inference.gpu_model import GpuModel
from store_engine.inference.kv_cache import KVCache
from store_engine.inference.prefill_batch import PrefillBatch, batches
from store_engine.inference.prefix_cache import PrefixCache

_MAX_BEAMS = 1 << 17  # of all requests of a batch

Rows = NDArray[np.int64]


class Searcher:
    """Searches for histories of any number. Safe to call from several threads.

    Args:
        model: The model.
        bos: Token that each history begins with.
        max_history: Items that are read of a history, its last ones.
        prefixes: Contexts of earlier requests; None: they are computed again.
    """

    def __init__(
        self, model: DecodingModel, bos: int, max_history: int, prefixes: PrefixCache | None
    ) -> None:
        self._model, self._bos, self._max_history = model, bos, max_history
        self._prefixes = prefixes
        self._idle_caches: list[KVCache] = []
        self._graphs: GraphSearch | None = None
        self._making_graphs = threading.Lock()

    def search(self, call: Call, batch_size: int) -> Found:
        """Finds the best items after each history of a call.

        Args:
            call: What is asked for.
            batch_size: Histories that are searched at once, at most.

        Raises:
            NonFiniteLogitsError: The model gave NaN or +inf after some of the histories.
        """
        found = Found.nothing(len(call.histories), call.k)
        # more beams than that at once would take too much memory for keys and values
        batch_size = max(1, min(batch_size, _MAX_BEAMS // call.width))
        for ids in batches(call.histories, batch_size):
            histories = self._kept(call.histories[i] for i in ids)
            if for_graph(call, histories):
                with _naming_histories(ids):
                    part = search_batch_by_graph(call, ids, histories, self.graph_search())
            else:
                batch = PrefillBatch.from_histories(histories, call.view.tokens, self._bos)
                with self._cache(ids) as cache:
                    part = search_batch(call, ids, batch, cache)
            found.put(ids, part)
        return found

    def score(
        self, view: CatalogView, histories: list[Rows], space: SearchSpace, batch_size: int
    ) -> Iterator[tuple[Rows, NDArray[np.float32]]]:
        """Scores the whole catalogue after each history.

        Args:
            view: The catalogue.
            histories: Catalogue rows of each.
            space: The trie, and what a softmax runs over.
            batch_size: Histories that are scored at once, at most.

        Yields:
            The positions of some histories, and (num_histories, num_items) log-probabilities of
            the trie's items after them.

        Raises:
            NonFiniteLogitsError: The model gave NaN or +inf after some of the histories.
        """
        model = self._model.with_slots(view.table.item_slots)
        for ids in batches(histories, batch_size):
            kept = self._kept(histories[i] for i in ids)
            batch = PrefillBatch.from_histories(kept, view.tokens, self._bos)
            with self._cache(ids) as cache:
                scores = score_catalog(model, space, cache, batch)
            yield ids, scores.cpu().numpy()

    def look_ahead(self, view: CatalogView) -> None:
        """Takes note of a changed catalogue, which the next searches will be for."""
        if self._graphs is not None:
            self._graphs.hold_soon(view)

    def graph_search(self) -> GraphSearch:
        """The search by graphs, made when it is first asked for."""
        with self._making_graphs:
            if self._graphs is None:
                kernels = kernels_of_graphs(self._model.device)
                self._graphs = GraphSearch(GpuModel.of(self._model, self._bos, kernels))
            return self._graphs

    def _kept(self, histories: Iterable[Rows]) -> list[Rows]:
        """What is read of each history."""
        return [history[-self._max_history :] for history in histories]

    @contextlib.contextmanager
    def _cache(self, ids: Rows) -> Iterator[KVCache]:
        """Lends a cache that no other thread holds; one whose batch fails is dropped.

        Args:
            ids: The histories of the batch, which an error about one of them names.
        """
        model = self._model
        try:
            cache = self._idle_caches.pop()
        except IndexError:
            cache = KVCache(model.config, model.device, model.dtype, self._prefixes)
        try:
            with _naming_histories(ids):
                yield cache
        except NonFiniteLogitsError:
            if self._prefixes is not None:  # it may hold what led to them
                self._prefixes.clear()
            raise
        self._idle_caches.append(cache)


@contextlib.contextmanager
def _naming_histories(ids: Rows) -> Iterator[None]:
    """Lets an error about requests of a batch name the histories, which are `ids`."""
    try:
        yield
    except NonFiniteLogitsError as error:
        histories = sorted(int(ids[request]) for request in error.requests)
        raise NonFiniteLogitsError(histories, error.detail, what="history") from None
