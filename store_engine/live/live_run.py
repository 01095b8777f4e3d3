"""A run's catalogue and histories as they are now: every change is on the disk before it is seen.

One change after another: read (by the LLM, without holding anybody up), check, write it to the
journal, show it. What the journal has and this process lacks, because another process wrote it or
because a change was cut short between the two, is applied before the next change.
"""

import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from store_engine.catalog.item_ids import check_item_ids
from store_engine.catalog.live_catalog import LiveCatalog
from store_engine.data.catalog import Catalog
from store_engine.data.histories import Histories
from store_engine.errors import InputError
from store_engine.live.changes import (
    Change,
    EventsAdded,
    ItemsAdded,
    ItemsRemoved,
    ItemsUpdated,
    Texts,
    UserForgotten,
    What,
)
from store_engine.live.journal import Journal
from store_engine.live.journal_file import Header
from store_engine.live.replay import coalesced
from store_engine.live.user_histories import Unknown, UserHistories, check_events
from store_engine.runs.rewrite import rewrite_run
from store_engine.runs.run import Run
from store_engine.runs.run_directory import RunDirectory

if TYPE_CHECKING:
    from store_engine.live.compact import Write
    from store_engine.live.item_tokenizer import ItemTokenizer, ReadItems

Sids = dict[str, tuple[int, ...]]  # item id -> SID


class LiveRun:
    """What changes in an engine. Changes wait for each other, readers for nothing.

    Args:
        items: The catalogue, as the run's files have it.
        run: Where the LLM that reads new items is, and the journal; None: there is neither.
        device: Where that LLM reads.
        has_journal: Show and write the run's journal; else changes end with this process.

    Raises:
        InputError: The journal cannot be read, or holds what does not fit the run.
    """

    def __init__(
        self,
        items: LiveCatalog,
        run: Run | None = None,
        device: torch.device | str = "cpu",
        has_journal: bool = True,
    ) -> None:
        self.items, self._device = items, device
        self._run: Run | None = None
        if run is not None:
            # one that has read nothing yet: what the engine was made of need not stay in memory
            self._run = Run(run.directory)
            if self._run.manifest != run.manifest:
                raise InputError(f"{run.directory.root}: was replaced while it was read")
        self.histories = UserHistories(self._first_histories, items)
        self._tokenizer: ItemTokenizer | None = None
        self._mutex = threading.RLock()  # of changes
        self.sequence = 0  # the last change of the journal that is shown here
        self.journal: Journal | None = None
        if run is not None and has_journal:
            self.journal = Journal(run.directory, run.manifest)
            self.sequence = self.journal.base
            self._apply(self.journal.changes())

    def add(
        self, items: Catalog | Texts, sids: ArrayLike | None, features: ArrayLike | None
    ) -> Sids:
        """Adds items; see `Engine.add_items`."""
        read = self._read(items) if self._is_to_read(sids, features) else None
        with self._changing() as commit:
            if read is not None:
                items, features = read.items, read.codes.features
                if sids is None:
                    sids = self._reader().choose(read, self._taken()).sids
            new = _Given.of(items, sids, features)
            self.items.add(*new, lambda: commit(ItemsAdded(*new.arrays())))
        self._warn(read)
        return new.by_id()

    def update(
        self, items: Catalog | Texts, sids: ArrayLike | None, features: ArrayLike | None
    ) -> Sids:
        """Replaces texts and SIDs of items; see `Engine.update_items`."""
        read = self._read(items) if self._is_to_read(sids, features) else None
        with self._changing() as commit:
            if read is not None:
                items, features = read.items, read.codes.features
                if sids is None:
                    sids = self._updated_sids(read)
            new = _Given.of(items, sids, features)
            self.items.update(*new, lambda: commit(ItemsUpdated(*new.arrays())))
        self._warn(read)
        return new.by_id()

    def remove(self, item_ids: Iterable[str]) -> None:
        """Removes items; see `Engine.remove_items`."""
        ids = check_item_ids(item_ids, "item_ids", known=self.items.view.table)
        if ids:
            with self._changing() as commit:
                self.items.remove(ids, lambda: commit(ItemsRemoved(tuple(ids))))

    def add_events(self, events: Iterable[tuple[str, str, Any]], unknown: Unknown) -> int:
        """Adds events; see `Engine.add_events`."""
        with self._changing() as commit:
            checked, num_skipped = check_events(events, self.items, unknown)
            if checked.events:
                commit(checked)
                self.histories.add(checked)
        return num_skipped

    def forget(self, user_id: str) -> None:
        """Deletes a user; see `Engine.forget_user`."""
        from store_engine.live.compact import without_user

        with self._mutex:
            if self.journal is None or self._run is None:
                raise InputError("only an engine with a journal can forget a user")
            self.journal.begin_writing()
            self.follow()
            if user_id not in self.histories:
                raise self.histories.unknown(user_id)
            # first for good, if it is cut short; then without a trace
            self.sequence = self.journal.forget(user_id)
            self.histories.forget(UserForgotten.of(user_id))
            if user_id in self._run.histories.user_ids:
                self._rewrite(without_user(self._run, user_id, *self._journal_content()))

    def compact(self) -> None:
        """Makes the changes part of the run's files; see `Engine.compact`."""
        from store_engine.live.compact import compacted

        with self._mutex:
            if self.journal is None or self._run is None:
                raise InputError("only an engine with a journal can compact it")
            self.journal.begin_writing()
            self.follow()
            changes, header = self._journal_content()
            events = self.histories.later(self._run.config.data.max_history)
            self._rewrite(compacted(self._run, self.items, changes, events, header))

    def _journal_content(self) -> tuple[list[Change], Header]:
        assert self.journal is not None
        return list(self.journal.changes()), self.journal.header

    def _rewrite(self, write: "Write") -> None:
        """Puts the rewritten run in the place of the old one, and goes on with it."""
        assert self.journal is not None and self._run is not None
        directory = self._run.directory
        self.journal.close(keep_lock=True)
        try:
            rewrite_run(directory, write)
            self._run = Run(directory)
        finally:
            self.journal.go_on(self._run.manifest)

    def follow(self) -> int:
        """Applies what another process wrote since; returns how many changes that were.

        Raises:
            InputError: The journal cannot be read, or the run was compacted: load it again.
        """
        with self._mutex:
            before = self.sequence
            if self.journal is not None and self.journal.last_sequence != before:
                self._apply(self.journal.since(before))
            return self.sequence - before

    def apply(self, changes: Iterable[Change]) -> None:
        """Shows changes that came another way than by the journal; see `Engine.apply`."""
        with self._mutex:
            for change in coalesced(changes):
                self._show(change.what)
                self.sequence = change.sequence

    def close(self) -> None:
        """Gives the run's lock back, so that another process can write."""
        with self._mutex:
            if self.journal is not None:
                self.journal.close()

    @contextmanager
    def _changing(self) -> Iterator[Callable[[What], None]]:
        """Lends the journal for one change."""
        with self._mutex:
            if self.journal is not None:
                self.journal.begin_writing()
                self.follow()
            before, written = self.items.view, self.sequence

            def commit(what: What) -> None:
                nonlocal written
                if self.journal is not None:
                    written = self.journal.append(what)

            try:
                yield commit
            except BaseException:
                # written, and cut short before it was shown: it is shown with the next change
                if self.items.view is not before:
                    self.sequence = written
                raise
            self.sequence = written

    def _apply(self, changes: Iterable[Change]) -> None:
        """Shows changes of the journal."""
        try:
            for change in coalesced(changes):
                self._show(change.what)
                self.sequence = change.sequence
        except (InputError, TypeError, ValueError) as error:
            assert self.journal is not None
            path = self.journal.path
            if str(error).startswith(f"{path}: "):
                raise
            where = f"after change {self.sequence}"
            raise InputError(f"{path}: does not fit the run, {where}: {error}") from error

    def _show(self, what: What) -> None:
        match what:
            case ItemsUpdated(items, sids, features):
                self.items.update(items, sids, features)
            case ItemsAdded(items, sids, features):
                self.items.add(items, sids, features)
            case ItemsRemoved(item_ids):
                self.items.remove(item_ids)
            case EventsAdded():
                self.histories.add(what)
            case UserForgotten():
                self.histories.forget(what)

    def _is_to_read(self, sids: ArrayLike | None, features: ArrayLike | None) -> bool:
        """Whether an item's text has to say what its SID is, or what describes its own row."""
        if sids is None or features is not None or self._run is None:
            return sids is None
        return self._run.sid_table.features is not None

    def _read(self, items: Catalog | Texts) -> "ReadItems":
        return self._reader().read(items)

    def _reader(self) -> "ItemTokenizer":
        with self._mutex:
            if self._tokenizer is None:
                # here: an engine that only recommends needs neither it nor what it imports
                from store_engine.live.item_tokenizer import ItemTokenizer

                if self._run is None:
                    raise InputError(
                        "new items need SIDs: only an engine that was loaded from a run can read "
                        "their texts"
                    )
                self._tokenizer = ItemTokenizer(self._latest_run(), self._device)
            return self._tokenizer

    def _taken(self) -> NDArray[np.int32]:
        """(num_items, num_levels) the SIDs in use."""
        sids: NDArray[np.int32] = self.items.view.table.sids[self.items.present()]
        return sids

    def _updated_sids(self, read: "ReadItems") -> NDArray[np.int32]:
        """SIDs of items whose text changed: the same where the codes are still the nearest."""
        table, rule = self.items.view.table, self._reader().rule
        rows = np.array([table.row_of(item_id) for item_id in read.items.item_ids], dtype=np.int64)
        sids = table.sids[rows]
        is_moved = (sids[:, : rule.num_codes] != read.codes.codes).any(1)
        if is_moved.any():
            others = np.setdiff1d(self.items.present(), rows[is_moved])
            chosen = rule.choose(
                read.dense_tokens[is_moved], read.codes.of(is_moved), table.sids[others]
            )
            sids[is_moved] = chosen.sids
        return sids

    def _warn(self, read: "ReadItems | None") -> None:
        for remark in read.remarks if read is not None else ():
            warnings.warn(remark, stacklevel=4)

    def _first_histories(self) -> Histories:
        if self._run is None:
            return Histories((), np.zeros(0, np.int32), np.zeros(1, np.int64))
        return self._latest_run().histories

    def _latest_run(self) -> Run:
        """The run as its files are now: another process may have rewritten them in our sense."""
        assert self._run is not None
        if self.journal is None:
            return self._run
        run = Run(RunDirectory.open(self._run.directory.root))
        Journal(run.directory, run.manifest).close()
        self.journal.check()
        return run


class _Given(NamedTuple):
    """Items with their SIDs, as a caller gave them or as they were chosen."""

    items: Catalog
    sids: Any
    features: Any

    @classmethod
    def of(cls, items: Catalog | Texts, sids: Any, features: Any) -> "_Given":
        if not isinstance(items, Catalog):
            raise TypeError(f"with SIDs, items must be a Catalog, got {type(items).__name__}")
        return cls(items, sids, features)

    def arrays(self) -> tuple[Catalog, NDArray[np.int32], NDArray[np.float32] | None]:
        """The same once they were checked."""
        features = None if self.features is None else np.asarray(self.features, dtype=np.float32)
        return self.items, np.asarray(self.sids, dtype=np.int32), features

    def by_id(self) -> Sids:
        """Item id -> SID."""
        rows = np.asarray(self.sids).tolist()
        return dict(zip(self.items.item_ids, map(tuple, rows), strict=True))
