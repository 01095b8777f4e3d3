"""The engine: histories of item ids in, ranked items of the catalogue out."""

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from store_engine._C import ItemTrie, RowSet
from store_engine.catalog.batch_filter import BatchFilter
from store_engine.catalog.live_catalog import CatalogView, LiveCatalog
from store_engine.catalog.trie_arrays import TrieArrays
from store_engine.config import DecodingConfig
from store_engine.data.catalog import Catalog
from store_engine.decoding.beam import beam_search
from store_engine.decoding.beam_step import Backend, choose_backend
from store_engine.decoding.exact import score_catalog
from store_engine.decoding.ranking import Ranking, rank_beams, rank_scores
from store_engine.errors import InputError
from store_engine.inference.contexts import Contexts, Rows, batches, check_rows, pack
from store_engine.inference.cpu_model import choose_dtype, for_decoding
from store_engine.inference.kv_cache import KVCache
from store_engine.inference.prefix_cache import PrefixCache
from store_engine.model.store_model import StoreModel
from store_engine.runs.run import Run, load_run

# an expression over defined item sets, for all histories or one per history; None: all items
Sets = str | Sequence[str | None] | None


class Recommendation(NamedTuple):
    """One recommended item."""

    item_id: str
    logprob: float  # of the item's SID after the history


class Engine:
    """Recommends items of one catalogue with one model. Safe to call from several threads.

    Args:
        model: The recommender, on the device and in the dtype to decode in; put in eval mode. On a
            CPU its layers are copied in another layout: later changes of them have no part.
        catalog: The items, in row order.
        sids: (num_items, num_levels) int32, each row's SID.
        bos: Id of the text token that every history begins with.
        max_history: A longer history keeps its last `max_history` items.
        config: Defaults of the search: beam width, normalisation, batch size, exclusion; and the
            memory for the contexts of earlier requests, with which a user's next request computes
            its new items only. The dtype is the model's.
        backend: Which beam step runs: "cpp", "torch", or "auto" (cpp on the CPU).
        trie: The trie of `sids`, when it is already built.

    Raises:
        ValueError: The parts do not fit each other.
    """

    def __init__(
        self,
        model: StoreModel,
        catalog: Catalog,
        sids: NDArray[np.int32],
        *,
        bos: int,
        max_history: int = 50,
        config: DecodingConfig | None = None,
        backend: Backend = "auto",
        trie: ItemTrie | None = None,
    ) -> None:
        want = (catalog.num_items, len(model.codebook_sizes))
        if sids.shape != want:
            raise ValueError(f"sids must be (num_items, num_levels) = {want}, got {sids.shape}")
        trie = trie or ItemTrie(np.ascontiguousarray(sids), list(model.codebook_sizes))
        if (trie.num_items, trie.num_levels) != want:
            raise ValueError(
                f"the trie must hold {want[0]} items of {want[1]} levels, "
                f"got {trie.num_items} of {trie.num_levels}"
            )
        self.model = model.eval()
        self._model = for_decoding(model)
        self.max_history = max_history
        self.config = config or DecodingConfig()
        self.backend = backend
        weight = model.code_head.weight
        self.device, self._dtype = weight.device, weight.dtype
        choose_backend(backend, self.device)  # refuses an unknown name now, not at the first call
        self._bos = bos
        offsets = torch.tensor(model.vocabulary.level_offsets, device=self.device)
        self._items = LiveCatalog(catalog, sids, trie, offsets)
        room = self.config.prefix_cache_mib
        self._prefixes = PrefixCache(room, trie.num_levels) if room else None
        self._idle_caches: list[KVCache] = []

    @classmethod
    def load(
        cls,
        run_dir: str | Path | Run,
        *,
        device: str = "auto",
        dtype: Literal["auto", "float32", "bfloat16"] | None = None,
        backend: Backend = "auto",
        prefix_cache_mib: float | None = None,
    ) -> "Engine":
        """Loads a finished run.

        Args:
            run_dir: What training wrote; or a run that is open, whose model is taken over.
            device: "cpu", "cuda", or "auto": cuda where there is one.
            dtype: Of the weights; by default the run's config. "auto": bfloat16 where the machine
                computes in it, else float32.
            backend: See the class.
            prefix_cache_mib: Memory for the contexts of earlier requests; by default the run's
                config, 0 keeps none. The results are the same.

        Raises:
            InputError: The directory is missing, unfinished, damaged or of another format.
        """
        run = run_dir if isinstance(run_dir, Run) else load_run(run_dir)
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        config = run.config.decoding
        if prefix_cache_mib is not None:
            config = dataclasses.replace(config, prefix_cache_mib=prefix_cache_mib)
        return cls(
            run.model.to(device, choose_dtype(dtype or config.dtype, device)),
            run.catalog,
            run.sid_table.sids,
            bos=run.vocabulary.bos_id,
            max_history=run.config.data.max_history,
            config=config,
            backend=backend,
            trie=run.trie,
        )

    @property
    def catalog(self) -> Catalog:
        """All items by row, also those that were removed."""
        return self._items.catalog

    @property
    def sids(self) -> NDArray[np.int32]:
        """(num_rows, num_levels), the SID of every row of `catalog`."""
        return self._items.sids

    @property
    def trie(self) -> TrieArrays:
        """The items there are now."""
        return self._items.view.trie

    def add_items(self, items: Catalog, sids: NDArray[np.int32]) -> None:
        """Adds items, which later calls can find and read in histories. Calls need not wait.

        Args:
            items: With the fields of the catalogue. One that was removed may come back.
            sids: (num_items, num_levels) int32, from `store-engine tokenize` or made by you.

        Raises:
            InputError: An item is in the catalogue already; a field, a shape or a code is wrong.
                Nothing is added then.
        """
        self._items.add(items, sids)

    def remove_items(self, item_ids: Iterable[str]) -> None:
        """Removes items from what later calls can find; histories may go on naming them.

        Raises:
            InputError: An item is not in the catalogue, is named twice, or none would be left.
                Nothing is removed then.
        """
        self._items.remove(item_ids)

    def define(self, name: str, item_ids: Iterable[str]) -> None:
        """Names a set of items, for `allow` and `deny` of later calls; an old one is replaced.

        Args:
            name: A Python identifier, such as "in_stock".
            item_ids: In any order, repeats allowed.

        Raises:
            InputError: The name is no identifier, or an item id is not in the catalogue.
        """
        self._items.define(name, item_ids)

    def recommend(
        self,
        histories: Sequence[Sequence[str]],
        k: int = 10,
        *,
        allow: Sets = None,
        deny: Sets = None,
        exclude: Sequence[Sequence[str]] | None = None,
        exclude_history: bool | None = None,
        beam_width: int | None = None,
        exact: bool = False,
        backend: Backend | None = None,
    ) -> list[list[Recommendation]]:
        """Finds the k items most likely to follow each history.

        Args:
            histories: Item ids of each user, oldest first. An empty history is allowed.
            k: Items wanted.
            allow: Recommend items of this set only: an expression over names that were given to
                `define`, such as "in_stock & (books | games)"; or one per history, None for all.
            deny: Recommend no item of this set; of the same form.
            exclude: Per history, items not to recommend, such as those on the page already.
            exclude_history: Never recommend an item of the history; by default as the run's config.
            beam_width: Prefixes kept while searching, at least k; wider is closer to exact. By
                default the run's, or k where that is larger.
            exact: Score the whole catalogue instead of searching with a beam. Slow.
            backend: "cpp" or "torch"; by default the engine's.

        Returns:
            Per history k items, best first, or as many as it may be given.

        Raises:
            InputError: An item id is not in the catalogue, an item set is not defined, or
                beam_width < k.
            TypeError: `histories` is not a list of lists.
        """
        if isinstance(histories, str) or any(isinstance(history, str) for history in histories):
            raise TypeError("histories must be a list of lists of item ids: [['50', '181'], ...]")
        found, logprobs = self.recommend_rows(
            self._rows_of(histories),
            k,
            allow=allow,
            deny=deny,
            exclude=None if exclude is None else self._rows_of(exclude),
            exclude_history=exclude_history,
            beam_width=beam_width,
            exact=exact,
            backend=backend,
        )
        name = self._items.item_id
        return [
            [Recommendation(name(r), p) for r, p in zip(one, scores, strict=True) if r >= 0]
            for one, scores in zip(found.tolist(), logprobs.tolist(), strict=True)
        ]

    def _rows_of(self, lists: Sequence[Sequence[str]]) -> list[list[int]]:
        return [[self._items.row_of(item_id) for item_id in item_ids] for item_ids in lists]

    @torch.inference_mode()
    def recommend_rows(
        self,
        histories: Sequence[Rows],
        k: int = 10,
        *,
        allow: Sets = None,
        deny: Sets = None,
        exclude: Sequence[Rows] | None = None,
        exclude_history: bool | None = None,
        beam_width: int | None = None,
        exact: bool = False,
        backend: Backend | None = None,
    ) -> Ranking:
        """Like `recommend`, in catalogue rows.

        Args:
            histories: Catalogue rows of each user, oldest first.
            k: As in `recommend`, like all that follow.
            allow: The same.
            deny: The same.
            exclude: The same, in catalogue rows.
            exclude_history: The same.
            beam_width: The same.
            exact: The same.
            backend: The same.

        Returns:
            Rows (num_histories, k), -1 where a history may be given fewer than k items, and their
            log-probabilities, -inf there.

        Raises:
            InputError: A row is not in the catalogue, an item set is not defined, or
                beam_width < k.
        """
        if k < 1:
            raise InputError(f"k must be at least 1, got {k}")
        width = max(self.config.beam_width, k) if beam_width is None else beam_width
        if width < k:
            raise InputError(f"beam_width must be at least k, got beam_width {width} < k {k}")
        num, view, backend = len(histories), self._items.view, backend or self.backend
        if exact or choose_backend(backend, self.device) != "cpp":
            view = view.rebuilt
        checked = check_rows(histories, len(view.tokens), "history")
        allowed = self._allowed(view, allow, deny, num)
        excluded = self._excluded(view, checked, exclude, exclude_history)

        rows = np.full((num, k), -1, dtype=np.int64)
        logprobs = np.full((num, k), -np.inf, dtype=np.float32)
        for ids in batches(checked, self.config.batch_size):
            item_filter = None
            if any(allowed[i] is not None or len(excluded[i]) for i in ids):
                item_filter = BatchFilter(
                    view.trie, [allowed[i] for i in ids], [excluded[i] for i in ids]
                )
            contexts = self._contexts(view, [checked[i] for i in ids])
            if exact:
                scores = self._score(view, contexts, item_filter)
                found = rank_scores(view.trie, scores, k, item_filter)
            else:
                with self._cache() as cache:
                    beams = beam_search(
                        self._model,
                        view.trie,
                        cache,
                        contexts,
                        width,
                        normalize=self.config.normalize,
                        backend=backend,
                        item_filter=item_filter,
                    )
                found = rank_beams(view.trie, beams, k, item_filter)
            rows[ids], logprobs[ids] = view.rows(found[0]), found[1]
        return rows, logprobs

    @staticmethod
    def _allowed(view: CatalogView, allow: Sets, deny: Sets, num: int) -> list[RowSet | None]:
        """Per history the set of the trie's rows it may be given; None: everything."""
        both = zip(_per_history("allow", allow, num), _per_history("deny", deny, num), strict=True)
        return [view.sets.resolve(*pair) for pair in both]

    def _excluded(
        self,
        view: CatalogView,
        histories: list[NDArray[np.int64]],
        exclude: Sequence[Rows] | None,
        exclude_history: bool | None,
    ) -> list[NDArray[np.int64]]:
        """Per history the trie's rows it may not be given."""
        excluded = [np.zeros(0, dtype=np.int64)] * len(histories)
        if exclude is not None:
            if len(exclude) != len(histories):
                raise InputError(
                    f"exclude must hold one list per history ({len(histories)}), got {len(exclude)}"
                )
            excluded = check_rows(exclude, len(view.tokens), "exclude")
        if self.config.exclude_history if exclude_history is None else exclude_history:
            pairs = zip(excluded, histories, strict=True)
            excluded = [np.concatenate(pair) for pair in pairs]
        return [view.trie_rows(rows) for rows in excluded]

    @torch.inference_mode()
    def score_rows(self, histories: Sequence[Rows]) -> NDArray[np.float32]:
        """Scores the whole catalogue exactly, without a beam. Slow: for evaluation and tests.

        Args:
            histories: Catalogue rows of each user, oldest first.

        Returns:
            (num_histories, num_rows) log-probabilities; -inf for an item that was removed.

        Raises:
            InputError: A row is not in the catalogue.
        """
        view = self._items.view.rebuilt
        scores = np.full((len(histories), len(view.tokens)), -np.inf, dtype=np.float32)
        checked = check_rows(histories, len(view.tokens), "history")
        rows = view.rows(np.arange(view.trie.num_items))
        for ids in batches(checked, self.config.batch_size):
            found = self._score(view, self._contexts(view, [checked[i] for i in ids]))
            scores[np.ix_(ids, rows)] = found.cpu()
        return scores

    def _score(
        self, view: CatalogView, contexts: Contexts, item_filter: BatchFilter | None = None
    ) -> Tensor:
        with self._cache() as cache:
            return score_catalog(
                self._model,
                view.trie,
                cache,
                contexts,
                normalize=self.config.normalize,
                item_filter=item_filter,
            )

    def _contexts(self, view: CatalogView, histories: list[NDArray[np.int64]]) -> Contexts:
        kept = [history[-self.max_history :] for history in histories]
        return pack(kept, view.tokens, self._bos)

    @contextlib.contextmanager
    def _cache(self) -> Iterator[KVCache]:
        """Lends a cache that no other thread holds; one whose batch fails is dropped."""
        try:
            cache = self._idle_caches.pop()
        except IndexError:
            cache = KVCache(self.model.config, self.device, self._dtype, self._prefixes)
        yield cache
        self._idle_caches.append(cache)


def _per_history(name: str, sets: Sets, num: int) -> Sequence[str | None]:
    if sets is None or isinstance(sets, str):
        return [sets] * num
    if len(sets) != num:
        raise InputError(f"{name} must hold one item set per history ({num}), got {len(sets)}")
    return sets
