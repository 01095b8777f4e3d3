"""The engine: histories of item ids in, ranked items of the catalogue out."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray

from store_engine._C import ItemTrie
from store_engine.catalog.live_catalog import LiveCatalog
from store_engine.config import DecodingConfig
from store_engine.data.catalog import Catalog
from store_engine.decoding.allowance import Allowance
from store_engine.decoding.backends import (
    BackendName,
    SearchSpace,
    resolve_backend,
)
from store_engine.decoding.engine_parts import (
    ForeignTrieError,
    check_config,
    check_items,
    check_reading,
    check_shapes,
)
from store_engine.decoding.evidence import EvidenceScorer, Found, choose_evidence, run_evidence
from store_engine.decoding.exact import has_independent_codes
from store_engine.decoding.explanation import Explanation, explanation, only_item
from store_engine.decoding.live_engine import LiveEngine
from store_engine.decoding.ranking import Ranking
from store_engine.decoding.search_batch import (
    Call,
)
from store_engine.decoding.search_options import SearchOptions, takes_search_options
from store_engine.decoding.searcher import Searcher
from store_engine.errors import InputError
from store_engine.inference.decoding_model import (
    NonFiniteWeightsError,
    check_finite,
    prepare_for_decoding,
)
from store_engine.inference.fork_guard import install_fork_guard, report_fork
from store_engine.inference.prefill_batch import check_rows
from store_engine.inference.prefix_cache import PrefixCache
from store_engine.live.live_run import LiveRun
from store_engine.model.dtype import Dtype, choose_device, choose_dtype
from store_engine.model.store_model import StoreModel
from store_engine.runs.run import Run, load_run


class Recommendation(NamedTuple):
    """One recommended item. They are ranked by the score, logprob + evidence."""

    item_id: str
    logprob: float  # of the item's SID after the history
    evidence: float = 0.0  # item-item evidence, where the engine adds it; see docs/decoding.md

    @property
    def score(self) -> float:
        """What it is ranked by."""
        return self.logprob + self.evidence


class Engine(LiveEngine):
    """Recommends items of one catalogue with one model. Safe to call from several threads.

    Args:
        model: The recommender, on the device and in the dtype to decode in; put in eval mode. On a
            CPU the engine decodes with a copy of its layers in another layout, which later changes
            of the layers do not reach.
        catalog: The items, in row order.
        sids: (num_items, num_levels) int32, each row's SID.
        bos: Id of the text token that every history begins with.
        max_history: A longer history keeps its last `max_history` items.
        config: Defaults of the search: beam width, normalisation, batch size, exclusion; and the
            memory for the contexts of earlier requests, with which a user's next request computes
            its new items only. The dtype is the model's.
        backend: "cpp", "torch", "triton", "graph", or "auto": cpp on a CPU, graph on a GPU.
        trie: The trie of `sids`, when it is already built.
        evidence: Item-item evidence of this catalogue, added to log-probabilities where
            `config.evidence` or a call says so.
        run: The run that all this is of, which has the LLM that reads new items, the users'
            histories and the journal of changes; None: changes end with the process.
        journal: Show and write the run's journal.

    Raises:
        InputError: A weight is NaN or infinite.
        TypeError: A part is of another type.
        ValueError: The parts do not fit each other, or a number is out of its range.
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
        backend: BackendName = "auto",
        trie: ItemTrie | None = None,
        evidence: EvidenceScorer | None = None,
        run: Run | None = None,
        journal: bool = True,
    ) -> None:
        items = check_items(model, catalog, sids, trie)
        check_reading(model, bos, max_history)
        self.config = check_config(config)
        check_finite(model)
        self._model = prepare_for_decoding(model)
        self.max_history = max_history
        self.device = self._model.device
        self._backend = resolve_backend(backend, self.device)
        if evidence is not None and evidence.num_items != catalog.num_items:
            raise InputError(
                f"the evidence must be of the catalogue's {catalog.num_items} items, is of "
                f"{evidence.num_items}"
            )
        offsets = torch.tensor(model.vocabulary.level_offsets, device=self.device)
        changing = LiveCatalog(catalog, items.sids, items.trie, offsets, model)
        super().__init__(LiveRun(changing, run, self.device, journal), evidence)
        budget = self.config.prefix_cache_mib
        tokens_per_item = self._items.view.tokens.shape[1]
        prefixes = PrefixCache(budget, tokens_per_item) if budget else None
        self._searcher = Searcher(self._model, bos, max_history, prefixes)
        changing.on_change = self._searcher.look_ahead
        install_fork_guard()

    @classmethod
    def load(
        cls,
        run_dir: str | Path | Run,
        *,
        device: str = "auto",
        dtype: Dtype | None = None,
        backend: BackendName = "auto",
        prefix_cache_mib: float | None = None,
        journal: bool = True,
    ) -> "Engine":
        """Loads a finished run, with all that its journal says changed since.

        Args:
            run_dir: What training wrote; or a run that is open, whose model is taken over.
            device: "cpu", "cuda", "cuda:N", or "auto": cuda where there is one.
            dtype: Dtype of the weights; by default the run's config. "auto": bfloat16 where the
                device computes in it, else float32.
            backend: See the class.
            prefix_cache_mib: Memory for the contexts of earlier requests; by default the run's
                config, 0 keeps none. The results are the same.
            journal: False loads the run's files alone; changes then end with the process.

        Raises:
            InputError: The directory is missing, unfinished, damaged or of another format, or its
                weights are NaN or infinite; or this machine has no such device.
        """
        run = run_dir if isinstance(run_dir, Run) else load_run(run_dir)
        place = choose_device(device)
        config = run.config.decoding
        if prefix_cache_mib is not None:
            config = dataclasses.replace(config, prefix_cache_mib=prefix_cache_mib)
        try:
            return cls(
                run.take_model().to(place, choose_dtype(dtype or config.dtype, place)),
                run.catalog,
                run.sid_table.sids,
                bos=run.vocabulary.bos_id,
                max_history=run.config.data.max_history,
                config=config,
                backend=backend,
                trie=run.trie,
                evidence=run_evidence(run),
                run=run,
                journal=journal,
            )
        except NonFiniteWeightsError as error:
            raise NonFiniteWeightsError(f"{run.directory.model_weights}: {error}") from error
        except ForeignTrieError as error:
            raise ForeignTrieError(f"{run.directory.trie}: {error}") from error

    def __reduce__(self) -> NoReturn:
        """Refuses to be pickled or copied, for a child started by "spawn" too."""
        raise TypeError("an Engine cannot be pickled or copied: call Engine.load there again")

    @property
    def model(self) -> StoreModel:
        """The trained model."""
        return self._model.source

    @takes_search_options
    def recommend(
        self, histories: Iterable[Iterable[str]] | None, options: SearchOptions
    ) -> list[list[Recommendation]]:
        """Finds the k items most likely to follow each history.

        Args:
            histories: Item ids of each user, oldest first. An empty history is allowed. None where
                `users` names the users.
            options: The fields of `SearchOptions`, as arguments of their own: `k` first or by
                name, the others by name.

        Returns:
            Per history k items, best first, or as many as it may be given.

        Raises:
            InputError: An item id is not in the catalogue, an item set is not defined, or an
                option is out of its range.
            TypeError: `histories` is not a list of lists, or an option is of another type; or both
                histories and users are given, or neither.
        """
        rows = self._read_histories(histories, options)
        if options.exclude is not None:
            excluded, _ = self._items.known_rows_of_lists(
                options.exclude, "exclude", options.unknown, is_ordered=False
            )
            options = dataclasses.replace(options, exclude=excluded)
        name = self._items.item_id
        return [
            [Recommendation(name(r), p, e) for r, p, e in zip(*one, strict=True) if r >= 0]
            for one in zip(*(part.tolist() for part in self._search(rows, options)), strict=True)
        ]

    @takes_search_options
    def recommend_rows(self, histories: Iterable[Iterable[int]], options: SearchOptions) -> Ranking:
        """Finds catalogue rows as `recommend` finds items.

        Args:
            histories: Catalogue rows of each user, oldest first.
            options: The fields of `SearchOptions` as `recommend` takes them, with rows in
                `exclude`.

        Returns:
            Rows (num_histories, k), -1 where a history may be given fewer than k items, and their
            scores, -inf there: log-probabilities, plus the evidence where there is some.

        Raises:
            InputError: A row is not in the catalogue, an item set is not defined, or an option is
                out of its range.
            TypeError: A history is not a list of rows, or an option is of another type.
        """
        found = self._search(histories, options)
        return found.rows, found.total

    @takes_search_options
    def warm_up(self, shapes: Iterable[tuple[int, int]], options: SearchOptions) -> None:
        """Answers made-up requests, so that real ones of these shapes wait for nothing.

        On a GPU the first search of a shape compiles kernels and captures a graph. Shapes are
        rounded up: those of batches to powers of two, those of histories to 64, 128, ... tokens.

        Args:
            shapes: Of each, the number of histories and the items of the longest.
            options: As `recommend_rows` takes them, those that real requests will have.

        Raises:
            InputError: A number is out of its range, or as for `recommend_rows`.
            TypeError: `shapes` is no list of pairs of integers, or as for `recommend_rows`.
        """
        num_rows = len(self._items.view.tokens)
        for num, length in check_shapes(shapes):
            rows = np.arange(min(length, self.max_history)) % num_rows
            self._search([rows] * num, options)

    def explain(
        self, history: Iterable[str] | None, item_id: str, *, user: str | None = None
    ) -> Explanation:
        """Says why an item has the score that it has after a history.

        It costs a pass of the LLM for every event that the engine reads.

        Args:
            history: Item ids, oldest first; None where `user` names a user.
            item_id: An item that is in the catalogue.
            user: A user whose history the run has.

        Raises:
            InputError: An item is not in the catalogue, or nobody has this user id.
            TypeError: Both a history and a user are given, or neither.
        """
        histories, users = None if history is None else [history], None if user is None else [user]
        (rows,) = self._read_histories(histories, SearchOptions(users=users))
        rows = rows[-self.max_history :]
        row = self._items.row_of(item_id)
        without = [rows[:i] + rows[i + 1 :] for i in range(len(rows))]
        options = SearchOptions(k=1, exclude_history=False, normalize="codebook")
        found = self._found(only_item(self._call([rows, *without], options), row))
        votes = np.zeros(len(rows), dtype=np.float32)
        if self._evidence is not None and self.config.evidence == "auto":
            votes = self._evidence.votes(np.array(rows, dtype=np.int64), row)
        return explanation(self._items, rows, row, found, votes)

    def _read_histories(
        self, histories: Iterable[Iterable[str]] | None, options: SearchOptions
    ) -> list[list[int]]:
        if (histories is None) == (options.users is None):
            raise TypeError("either histories or users must be given")
        if histories is None:
            assert options.users is not None
            return self._rows_of_users(options.users, options.unknown)
        return self._rows_of_histories(histories, options.unknown)

    @torch.inference_mode()
    def _search(self, histories: Iterable[Iterable[int]], options: SearchOptions) -> Found:
        return self._found(self._call(histories, options))

    @torch.inference_mode()
    def _found(self, call: Call) -> Found:
        report_fork()
        return self._searcher.search(call, self.config.batch_size)

    def _call(self, histories: Iterable[Iterable[int]], options: SearchOptions) -> Call:
        """Resolves a call's options against the catalogue as it is now."""
        own = self._evidence  # before the view, which has all items that it votes for
        view, config, name = self._items.view, self.config, options.backend
        backend = self._backend if name is None else resolve_backend(name, self.device)
        checked = check_rows(histories, len(view.tokens), "history")
        own_rule = options.exclude_history
        exclude_history = config.exclude_history is True if own_rule is None else own_rule
        normalize = options.normalize or config.normalize
        evidence = choose_evidence(own, options.evidence, config.evidence, normalize)
        allowance = Allowance.of(view, options, checked, exclude_history)
        voters = allowance if evidence is not None else None
        model = self._model.with_slots(view.table.item_slots)
        is_one_scan = has_independent_codes(model, normalize) and evidence is None
        reads_arrays = not is_one_scan if options.exact else backend.reads_arrays
        if reads_arrays and view.compacted is not view:
            view = view.compacted
            allowance = Allowance.of(view, options, checked, exclude_history)
        return Call(
            model,
            checked,
            allowance,
            options.k,
            options.width(config.beam_width),
            normalize,
            None if options.exact else backend,
            is_one_scan,
            evidence,
            voters,
        )

    @torch.inference_mode()
    def score_rows(self, histories: Iterable[Iterable[int]]) -> NDArray[np.float32]:
        """Scores the whole catalogue exactly, without a beam. Slow: for evaluation and tests.

        Args:
            histories: Catalogue rows of each user, oldest first.

        Returns:
            (num_histories, num_rows) log-probabilities; -inf for an item that was removed.

        Raises:
            InputError: A row is not in the catalogue.
            TypeError: A history is not a list of rows.
        """
        report_fork()
        view = self._items.view.compacted
        checked = check_rows(histories, len(view.tokens), "history")
        scores = np.full((len(checked), len(view.tokens)), -np.inf, dtype=np.float32)
        rows = view.rows(np.arange(view.trie.num_items))
        space = SearchSpace(view.trie, normalize=self.config.normalize)
        for ids, found in self._searcher.score(view, checked, space, self.config.batch_size):
            scores[np.ix_(ids, rows)] = found
        return scores
