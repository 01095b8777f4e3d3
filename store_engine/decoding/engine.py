"""The engine: histories of item ids in, ranked items of the catalogue out."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from store_engine._C import ItemTrie
from store_engine.config import EvalConfig
from store_engine.data.catalog import Catalog
from store_engine.decoding.beam import beam_search
from store_engine.decoding.beam_step import Backend, Beams, choose_backend, top_columns
from store_engine.decoding.contexts import Contexts, Rows, batches, check_histories, pack
from store_engine.decoding.exact import score_catalog
from store_engine.decoding.exclusion import Exclusion
from store_engine.decoding.kv_cache import KVCache
from store_engine.decoding.run_directory import load_run
from store_engine.decoding.trie_arrays import TrieArrays
from store_engine.errors import InputError
from store_engine.model.store_model import StoreModel

_Found = tuple[NDArray[np.int64], NDArray[np.float32]]  # rows and logprobs, (num_histories, k)


class Recommendation(NamedTuple):
    """One recommended item."""

    item_id: str
    logprob: float  # of the item's SID after the history


class Engine:
    """Recommends items of one catalogue with one model. Safe to call from several threads.

    Args:
        model: The recommender, on the device and in the dtype to decode in; put in eval mode.
        catalog: The items, in row order.
        sids: (num_items, num_levels) int32, each row's SID.
        bos: Id of the text token that every history begins with.
        max_history: A longer history keeps its last `max_history` items.
        config: Defaults of the search: beam width, normalisation, batch size, exclusion.
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
        config: EvalConfig | None = None,
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
        self.catalog = catalog
        self.max_history = max_history
        self.config = config or EvalConfig()
        self.backend = backend
        weight = model.code_head.weight
        self.device, self._dtype = weight.device, weight.dtype
        choose_backend(backend, self.device)  # refuses an unknown name now, not at the first call
        self.trie = TrieArrays(trie, self.device)
        self.sids = sids
        self._bos = bos
        self._item_tokens = model.code_tokens(
            torch.tensor(sids, dtype=torch.int64, device=self.device)
        )
        self._idle_caches: list[KVCache] = []

    @classmethod
    def load(
        cls,
        run_dir: str | Path,
        *,
        device: str = "auto",
        dtype: torch.dtype | None = None,
        backend: Backend = "auto",
    ) -> "Engine":
        """Loads a finished run.

        Args:
            run_dir: What training wrote.
            device: "cpu", "cuda", or "auto": cuda where there is one.
            dtype: Of the weights; by default float32 on the CPU and bfloat16 on a GPU.
            backend: See the class.

        Raises:
            InputError: The directory is missing, unfinished, damaged or of another format.
        """
        run = load_run(run_dir)
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if dtype is None:
            dtype = torch.bfloat16 if device.startswith("cuda") else torch.float32
        return cls(
            run.model.to(device, dtype),
            run.catalog,
            run.sid_table.sids,
            bos=run.vocabulary.bos_id,
            max_history=run.config.data.max_history,
            config=run.config.eval,
            backend=backend,
            trie=run.trie,
        )

    def recommend(
        self,
        histories: Sequence[Sequence[str]],
        k: int = 10,
        *,
        beam_width: int | None = None,
        exclude_history: bool | None = None,
        exact: bool = False,
        backend: Backend | None = None,
    ) -> list[list[Recommendation]]:
        """Finds the k items most likely to follow each history.

        Args:
            histories: Item ids of each user, oldest first. An empty history is allowed.
            k: Items wanted.
            beam_width: Prefixes kept while searching, at least k; wider is closer to exact. By
                default the run's, or k where that is larger.
            exclude_history: Never recommend an item of the history; by default as the run's config.
            exact: Score the whole catalogue instead of searching with a beam. Slow.
            backend: "cpp" or "torch"; by default the engine's.

        Returns:
            Per history k items, best first, or as many as the catalogue has left to give.

        Raises:
            InputError: An item id is not in the catalogue, or beam_width < k.
            TypeError: `histories` is not a list of lists.
        """
        if isinstance(histories, str) or any(isinstance(history, str) for history in histories):
            raise TypeError("histories must be a list of lists of item ids: [['50', '181'], ...]")
        rows = [[self.catalog.row_of(item_id) for item_id in history] for history in histories]
        found, logprobs = self.recommend_rows(
            rows,
            k,
            beam_width=beam_width,
            exclude_history=exclude_history,
            exact=exact,
            backend=backend,
        )
        ids = self.catalog.item_ids
        return [
            [Recommendation(ids[r], p) for r, p in zip(one, scores, strict=True) if r >= 0]
            for one, scores in zip(found.tolist(), logprobs.tolist(), strict=True)
        ]

    @torch.inference_mode()
    def recommend_rows(
        self,
        histories: Sequence[Rows],
        k: int = 10,
        *,
        beam_width: int | None = None,
        exclude_history: bool | None = None,
        exact: bool = False,
        backend: Backend | None = None,
    ) -> _Found:
        """Like `recommend`, in catalogue rows.

        Args:
            histories: Catalogue rows of each user, oldest first.
            k: As in `recommend`, like all that follow.
            beam_width: The same.
            exclude_history: The same.
            exact: The same.
            backend: The same.

        Returns:
            Rows (num_histories, k), -1 where fewer than k items are left to give, and their
            log-probabilities, -inf there.

        Raises:
            InputError: A row is not in the catalogue, or beam_width < k.
        """
        if k < 1:
            raise InputError(f"k must be at least 1, got {k}")
        width = max(self.config.beam_width, k) if beam_width is None else beam_width
        if width < k:
            raise InputError(f"beam_width must be at least k, got beam_width {width} < k {k}")
        exclude = self.config.exclude_history if exclude_history is None else exclude_history

        rows = np.full((len(histories), k), -1, dtype=np.int64)
        logprobs = np.full((len(histories), k), -np.inf, dtype=np.float32)
        checked = check_histories(histories, self.catalog.num_items)
        for ids in batches(checked, self.config.batch_size):
            batch = [checked[i] for i in ids]
            contexts = self._contexts(batch)
            exclusion = Exclusion(self.trie, batch) if exclude else None
            if exact:
                found = self._best_rows(self._score(contexts), k, exclusion)
            else:
                with self._cache() as cache:
                    beams = beam_search(
                        self.model,
                        self.trie,
                        cache,
                        contexts,
                        width,
                        normalize=self.config.normalize,
                        backend=backend or self.backend,
                        exclusion=exclusion,
                    )
                found = self._beam_rows(beams, k, exclusion)
            rows[ids], logprobs[ids] = found
        return rows, logprobs

    @torch.inference_mode()
    def score_rows(self, histories: Sequence[Rows]) -> NDArray[np.float32]:
        """Scores the whole catalogue exactly, without a beam. Slow: for evaluation and tests.

        Args:
            histories: Catalogue rows of each user, oldest first.

        Returns:
            (num_histories, num_items) log-probabilities.

        Raises:
            InputError: A row is not in the catalogue.
        """
        scores = np.empty((len(histories), self.catalog.num_items), dtype=np.float32)
        checked = check_histories(histories, self.catalog.num_items)
        for ids in batches(checked, self.config.batch_size):
            scores[ids] = self._score(self._contexts([checked[i] for i in ids])).cpu()
        return scores

    def _score(self, contexts: Contexts) -> Tensor:
        with self._cache() as cache:
            return score_catalog(
                self.model, self.trie, cache, contexts, normalize=self.config.normalize
            )

    def _contexts(self, histories: list[NDArray[np.int64]]) -> Contexts:
        kept = [history[-self.max_history :] for history in histories]
        return pack(kept, self._item_tokens, self._bos)

    @contextlib.contextmanager
    def _cache(self) -> Iterator[KVCache]:
        """Lends a cache that no other thread holds; one whose batch fails is dropped."""
        try:
            cache = self._idle_caches.pop()
        except IndexError:
            cache = KVCache(self.model.config, self.device, self._dtype)
        yield cache
        self._idle_caches.append(cache)

    def _beam_rows(self, beams: Beams, k: int, exclusion: Exclusion | None) -> _Found:
        """The k best items of each request; those that share a SID follow in row order."""
        batch, width = beams.nodes.shape
        offsets, row = self.trie.item_trie.leaf_rows(beams.nodes.flatten().cpu().numpy())
        beam = np.arange(batch * width).repeat(np.diff(offsets))
        if exclusion is not None:
            is_kept = ~exclusion.is_excluded(beam // width, row)
            beam, row = beam[is_kept], row[is_kept]
        request = beam // width
        rank = np.arange(len(row)) - np.searchsorted(request, request)
        is_top = rank < k
        request, rank, row, beam = request[is_top], rank[is_top], row[is_top], beam[is_top]
        rows = np.full((batch, k), -1, dtype=np.int64)
        logprobs = np.full((batch, k), -np.inf, dtype=np.float32)
        rows[request, rank] = row
        logprobs[request, rank] = beams.scores.flatten().cpu().numpy()[beam]
        return rows, logprobs

    def _best_rows(self, scores: Tensor, k: int, exclusion: Exclusion | None) -> _Found:
        """The k best of (batch, num_items) scores; of equal ones the lower SID, then row, first."""
        if exclusion is not None:
            scores = exclusion.mask(scores)
        scores = scores[:, self.trie.rows]
        scores = F.pad(scores, (0, max(0, k - self.trie.num_items)), value=-torch.inf)
        columns = top_columns(scores, k)
        logprobs = scores.gather(1, columns)
        rows = F.pad(self.trie.rows, (0, k), value=-1)[columns]
        rows = rows.masked_fill(logprobs == -torch.inf, -1)
        return rows.cpu().numpy(), logprobs.cpu().numpy()
