"""Changes become part of a run's files, and users leave them: it is rewritten in one step."""

import dataclasses
from collections.abc import Callable, Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from store_engine._C import ItemTrie
from store_engine.catalog.live_catalog import LiveCatalog
from store_engine.collaborative.evidence import Evidence
from store_engine.data.catalog import Catalog
from store_engine.errors import InputError
from store_engine.files.atomic import atomic_open
from store_engine.files.digest import sha256
from store_engine.files.token_file import TokenFile
from store_engine.live.changes import Change, EventsAdded, ItemsAdded, ItemsRemoved, UserForgotten
from store_engine.live.journal_file import Header, new_database
from store_engine.model.weights import read_weights, save_weights
from store_engine.runs.run import Run
from store_engine.runs.run_paths import RunPaths
from store_engine.sid.dense_tokenizer import ItemTexts
from store_engine.sid.item_features import ItemVectors
from store_engine.sid.item_tokens import slot_order
from store_engine.sid.sid_table import SidTable

_MAX_BEFORE = 100  # earlier states that a journal says it goes on from
_OF_ITEMS = ("features", "residual", "written_residual")  # of `item_rows`, a row per slot

Write = Callable[[RunPaths], None]


def compacted(
    run: Run, items: LiveCatalog, changes: list[Change], events: EventsAdded, header: Header
) -> Write:
    """Makes what writes the files of a run with all changes of its journal.

    Items keep their rows; those that were removed stay in the files, as histories may name them,
    and in the journal as removed.

    Args:
        run: As it was loaded.
        items: The catalogue with all changes.
        changes: All of the journal.
        events: Those that histories still need.
        header: Of the journal now.

    Raises:
        InputError: A file of the run is damaged.
    """
    snapshot = _Snapshot.of(run, items, changes)

    def write(paths: RunPaths) -> None:
        snapshot.write(paths)
        before = (header.sids, *header.before)[:_MAX_BEFORE]
        base = max([header.base, *(change.sequence for change in changes)])
        kept = _kept(run, items, changes, events)
        numbers = range(base - len(kept) + 1, base + 1)
        database = new_database(
            Header(sha256(paths.sids), base, before), map(Change, numbers, kept)
        )
        with atomic_open(paths.journal) as file:
            file.write(database)

    return write


def _kept(
    run: Run, items: LiveCatalog, changes: list[Change], events: EventsAdded
) -> list[ItemsRemoved | EventsAdded | UserForgotten]:
    """What the files cannot say: who is forgotten, what is removed, what came later."""
    users = {UserForgotten.of(user_id) for user_id in run.histories.user_ids}
    forgotten = [change.what for change in changes if isinstance(change.what, UserForgotten)]
    kept: list[ItemsRemoved | EventsAdded | UserForgotten]
    kept = [user for user in dict.fromkeys(forgotten) if user in users]
    gone = np.setdiff1d(np.arange(items.view.table.num_rows), items.present())
    removed = tuple(map(items.item_id, gone.tolist()))
    if removed:
        kept.append(ItemsRemoved(removed))
    return [*kept, events] if events.events else kept


@dataclasses.dataclass(frozen=True)
class _Snapshot:
    """The files of items, of a run and of what changed.

    Args:
        run: As it was loaded.
        catalog: All items that there are or were.
        sids: (num_rows, num_levels).
        features: Row -> the features of an item that was added or updated, where the last code is
            the item itself.
    """

    run: Run
    catalog: Catalog
    sids: NDArray[np.int32]
    features: dict[int, NDArray[np.float32]]

    @classmethod
    def of(cls, run: Run, items: LiveCatalog, changes: Iterable[Change]) -> "_Snapshot":
        features: dict[int, NDArray[np.float32]] = {}
        for change in changes:
            if isinstance(change.what, ItemsAdded) and change.what.features is not None:
                rows = map(items.row_of, change.what.items.item_ids)
                features |= dict(zip(rows, change.what.features, strict=True))
        sids = items.sids
        if run.sid_table.features is not None:
            sids = _apart(sids, items.present(), run.sid_table.codebook_sizes[-1])
        return cls(run, items.catalog, sids, features)

    def write(self, paths: RunPaths) -> None:
        run, config = self.run, self.run.config
        self.catalog.save(paths.items)
        if paths.item_texts.exists():
            max_tokens = config.data.max_text_tokens
            ItemTexts.write(self.catalog, run.vocabulary, max_tokens, paths.item_texts)
        table = dataclasses.replace(run.sid_table, sids=self.sids, item_ids=self.catalog.item_ids)
        table.save(paths.sids)
        trie = paths.root / "trie.new"  # the core writes into the file that is there
        ItemTrie(self.sids, list(table.codebook_sizes)).save(str(trie))
        trie.replace(paths.trie)
        if table.features is not None:
            self._write_rows(paths, table)
        for name in (paths.training_evidence, paths.evidence, paths.evidence_now):
            if name.exists():
                self._pad(Evidence.load(name)).save(name)

    def _write_rows(self, paths: RunPaths, table: SidTable) -> None:
        """The items' rows in the model, and what they started from."""
        for place in (paths.model_weights, paths.training_weights):
            if place.exists():
                save_weights(self._moved(read_weights(place), table), place)
        if paths.item_vectors.exists():
            self._extended(ItemVectors.load(paths.item_vectors)).save(paths.item_vectors)

    def _moved(self, weights: dict[str, Tensor], table: SidTable) -> dict[str, Tensor]:
        """Weights whose item rows stand in the new order of SIDs."""
        old, new = slot_order(self.run.sid_table.sids), slot_order(table.sids)
        slot_of_row = np.argsort(old)
        for part in _OF_ITEMS:
            weight = weights.get(f"item_rows.{part}")
            if weight is None:
                continue
            by_row = torch.zeros(len(new), weight.shape[1], dtype=weight.dtype)
            by_row[: len(old)] = weight[torch.from_numpy(slot_of_row)]
            for row, features in self.features.items():
                by_row[row] = torch.from_numpy(features) if part == "features" else 0
            weights[f"item_rows.{part}"] = by_row[torch.from_numpy(new)]
        return weights

    def _extended(self, vectors: ItemVectors) -> ItemVectors:
        space = np.zeros((len(self.sids), vectors.space.shape[1]), dtype=np.float32)
        described = np.zeros((len(self.sids), vectors.features.shape[1]), dtype=np.float32)
        # of a run that went on from another, those of the items that came with it, its last ones
        num_items, num_own = self.run.catalog.num_items, len(vectors.space)
        space[num_items - num_own : num_items] = vectors.space
        described[num_items - num_own : num_items] = vectors.features
        for row, features in self.features.items():
            described[row] = features
            if len(features) == space.shape[1] + 1:  # the space is that of the features
                space[row] = features[:-1]
        return ItemVectors(space, described)

    def _pad(self, evidence: Evidence) -> Evidence:
        """The same evidence, with nothing to say of items that came later."""
        num_new = len(self.sids) - evidence.num_items
        indptr = np.pad(evidence.indptr, (0, num_new), mode="edge")
        return dataclasses.replace(evidence, indptr=indptr)


def _apart(
    sids: NDArray[np.int32], present: NDArray[np.int64], last_size: int
) -> NDArray[np.int32]:
    """Gives removed items other last codes where an item that is there has theirs by now.

    The last code is the item itself: nothing else depends on its number.
    """
    is_there = np.zeros(len(sids), dtype=bool)
    is_there[present] = True
    used = {tuple(sid) for sid in sids[is_there].tolist()}
    prefixes = np.unique(sids[:, :-1], axis=0).tolist()
    for row in np.flatnonzero(~is_there).tolist():
        own = tuple(sids[row].tolist())
        if own in used:
            own = _free_sid([own[:-1], *map(tuple, prefixes)], used, last_size)
            sids[row] = own
        used.add(own)
    return sids


def _free_sid(
    prefixes: list[tuple[int, ...]], used: set[tuple[int, ...]], last_size: int
) -> tuple[int, ...]:
    for prefix in prefixes:
        for code in range(last_size):
            if (*prefix, code) not in used:
                return (*prefix, code)
    raise InputError("the items that were removed find no room beside the others: train anew")


def without_user(run: Run, user_id: str, changes: list[Change], header: Header) -> Write:
    """Makes what writes the files of a run without a user.

    Args:
        run: As it was loaded.
        user_id: In its histories.
        changes: All of the journal, from which the user's events are gone.
        header: Of the journal.

    Raises:
        InputError: A file of the run is damaged.
    """
    histories, directory = run.histories, run.directory
    user = histories.user_ids.index(user_id)
    left = histories.of_users(np.arange(histories.num_users) != user)
    places = (
        *(directory.train_rows, directory.refit_rows),
        *(directory.train_shown, directory.refit_shown),
    )
    learnt = {place.name: TokenFile(place) for place in places if place.exists()}
    for name, file in learnt.items():
        if len(file) != histories.num_users:
            raise InputError(f"{name}: holds other users than {directory.histories}")

    def write(paths: RunPaths) -> None:
        left.save(paths.histories)
        for name, rows in learnt.items():
            others = (rows[i] for i in range(len(rows)) if i != user)
            dtype = rows.tokens.dtype.newbyteorder("=").name
            TokenFile.write(paths.root / name, others, dtype)
        with atomic_open(paths.journal) as file:
            file.write(new_database(header, changes))

    return write
