"""The half of an engine that changes: its items, its users' histories, its sets of items."""

import threading
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from store_engine.catalog.item_ids import check_item_ids
from store_engine.catalog.live_catalog import LiveCatalog
from store_engine.catalog.trie_arrays import SearchTrie
from store_engine.collaborative.evidence import NewItemVotes
from store_engine.data.catalog import Catalog
from store_engine.decoding.evidence import EvidenceScorer
from store_engine.errors import InputError
from store_engine.live.changes import Change, Texts
from store_engine.live.journal import Journal
from store_engine.live.live_run import LiveRun, Sids
from store_engine.live.user_histories import Unknown


class LiveEngine:
    """What changes in an engine, and what every change promises.

    An engine that was loaded from a run writes every change to the run's journal, on the disk,
    before anybody sees it; the next `Engine.load` finds it there. Other threads may recommend
    meanwhile: a call that has begun sees nothing of a change, the next one sees all of it.

    Args:
        live: The catalogue, the histories and the journal.
        evidence: Item-item evidence; None: there is none.
    """

    def __init__(self, live: LiveRun, evidence: EvidenceScorer | None) -> None:
        self._live, self._evidence = live, evidence
        self._num_skipped, self._counting = 0, threading.Lock()

    @property
    def _items(self) -> LiveCatalog:
        return self._live.items

    @property
    def catalog(self) -> Catalog:
        """All items by row, also those that were removed."""
        return self._items.catalog

    @property
    def sids(self) -> NDArray[np.int32]:
        """(num_rows, num_levels), the SID of every row of `catalog`."""
        return self._items.sids

    @property
    def trie(self) -> SearchTrie:
        """The items there are now."""
        return self._items.view.trie

    @property
    def has_evidence(self) -> bool:
        """Whether there is item-item evidence, which a call may add to log-probabilities."""
        return self._evidence is not None

    @property
    def sequence(self) -> int:
        """Number of the last change of the run's journal that this engine shows."""
        return self._live.sequence

    @property
    def journal(self) -> Journal | None:
        """The run's journal; None: changes end with this process."""
        return self._live.journal

    @property
    def user_ids(self) -> list[str]:
        """Users whose histories `recommend(users=...)` can read."""
        return self._live.histories.user_ids()

    @property
    def num_skipped(self) -> int:
        """Ids that nobody has and that `unknown="skip"` left out so far."""
        return self._num_skipped

    def has_items(self, item_ids: Iterable[str]) -> list[bool]:
        """Tells of each item whether it is in the catalogue now, to be found by a call."""
        return self._items.are_there(check_item_ids(item_ids, "item_ids"))

    def knows(self, item_id: str) -> bool:
        """Whether an item is or was in the catalogue, so that a history may name it."""
        return item_id in self._items.view.table

    def knows_user(self, user_id: str) -> bool:
        """Whether somebody has this id, so that `recommend(users=...)` may name it."""
        return user_id in self._live.histories

    def add_items(
        self,
        items: Catalog | Texts,
        sids: ArrayLike | None = None,
        features: ArrayLike | None = None,
    ) -> Sids:
        """Adds items, which later calls can find and read in histories.

        Args:
            items: Item id -> field -> text, or a catalogue. One that was removed may come back.
                Their texts are cleaned as the run's were, and read by the run's LLM in batches.
            sids: (num_items, num_levels) integers of your own, for a catalogue with every field.
            features: (num_items, num_features) numbers that go with `sids`, where the last code
                of a SID is the item itself. None: the run's LLM reads them off the texts, if such
                a run was loaded.

        Returns:
            Item id -> SID.

        Raises:
            InputError: An item is in the catalogue already; a field, a shape or a code is wrong;
                features are missing or wrong; there is no free SID; or the journal cannot be
                written. Nothing is added then.

        Warns:
            UserWarning: Texts are unlike those of training, or many got codes that do not fit.
        """
        return self._live.add(items, sids, features)

    def update_items(
        self,
        items: Catalog | Texts,
        sids: ArrayLike | None = None,
        features: ArrayLike | None = None,
    ) -> Sids:
        """Replaces the texts of items, and their SIDs where the new text has other codes.

        Histories go on naming them, and evidence counts for them as before.

        Args:
            items: As for `add_items`; all of them in the catalogue. A field that is left out is
                empty.
            sids: As for `add_items`, like `features`.

        Returns:
            Item id -> SID.

        Raises:
            InputError: An item is not in the catalogue, or as for `add_items`. Nothing changes.

        Warns:
            UserWarning: As for `add_items`.
        """
        return self._live.update(items, sids, features)

    def remove_items(self, item_ids: Iterable[str]) -> None:
        """Removes items from what later calls can find; histories may go on naming them.

        Raises:
            InputError: An item is not in the catalogue, is named twice, or none would be left.
                Nothing is removed then.
        """
        self._live.remove(item_ids)

    def add_events(
        self, events: Iterable[tuple[str, str, Any]], *, unknown: Unknown = "error"
    ) -> int:
        """Adds events to the histories that `recommend(users=...)` reads.

        Args:
            events: User id, item id and time of each. A user may be new. A time is a number or a
                `datetime`; later events come last, and all of them after the run's own.
            unknown: "skip" leaves out events of items that are not in the catalogue.

        Returns:
            How many events were left out.

        Raises:
            InputError: An item is not in the catalogue, or the journal cannot be written. Nothing
                is added then.
            TypeError: `events` is no list of such events.
        """
        num_skipped = self._live.add_events(events, unknown)
        self._count_skipped(num_skipped)
        return num_skipped

    def history_of(self, user_id: str) -> list[str]:
        """Returns a user's item ids, oldest first.

        Raises:
            InputError: Nobody has this id.
        """
        return [self._items.item_id(row) for row in self._rows_of_user(user_id, "error")]

    def forget_user(self, user_id: str) -> None:
        """Deletes a user from histories, training data and journal; see `store-engine forget`.

        Raises:
            InputError: Nobody has this id, or the run cannot be written.
        """
        self._live.forget(user_id)

    def follow(self) -> int:
        """Shows what another process, which owns the journal, wrote since.

        Returns:
            How many changes that were.

        Raises:
            InputError: The journal cannot be read, or the run was compacted: load it again.
        """
        return self._live.follow()

    def apply(self, changes: Iterable[Change]) -> None:
        """Shows changes of a journal that this engine does not read, such as another machine's.

        Args:
            changes: From `Journal.changes` or `Journal.since`, in their order.

        Raises:
            InputError: A change does not fit the engine's items; those before it are shown.
        """
        self._live.apply(changes)

    def compact(self) -> None:
        """Makes the changes part of the run's files; see `store-engine compact`.

        Raises:
            InputError: The run cannot be written.
        """
        self._live.compact()

    def close(self) -> None:
        """Lets another process write the journal; the engine goes on answering."""
        self._live.close()

    def vote_for_new_items(self, votes: NewItemVotes) -> None:
        """Lets items that were added be recommended by evidence too, by votes for their text.

        Args:
            votes: From `new_item_votes`, in place of any before.

        Raises:
            InputError: The engine has no evidence, or the votes are of other items.
        """
        if self._evidence is None:
            raise InputError("votes for new items need an engine with evidence")
        self._evidence = self._evidence.with_new_items(votes, self._items.view.table.num_rows)

    def define(self, name: str, item_ids: Iterable[str]) -> None:
        """Names a set of items, for `allow` and `deny` of later calls; an old one is replaced.

        Sets are not in the journal: they end with the process.

        Args:
            name: Any short text, such as "in_stock"; one that is no identifier, such as "Dog food",
                stands in quotes in an expression.
            item_ids: In any order, repeats allowed.

        Raises:
            TypeError: `item_ids` is text or holds what is not text.
            InputError: The name is empty, too long or not printable, or an item id is not in the
                catalogue.
        """
        self._items.define(name, item_ids)

    def _rows_of_users(self, users: Iterable[str], unknown: Unknown) -> list[list[int]]:
        ids = check_item_ids(users, "users", is_ordered=True)
        return [self._rows_of_user(user_id, unknown) for user_id in ids]

    def _rows_of_user(self, user_id: str, unknown: Unknown) -> list[int]:
        rows = self._live.histories.rows(user_id)
        if rows is None and unknown == "error":
            raise self._live.histories.unknown(user_id)
        if rows is None:
            self._count_skipped(1)
        return rows or []

    def _rows_of_histories(
        self, histories: Iterable[Iterable[str]], unknown: Unknown
    ) -> list[list[int]]:
        rows, num_skipped = self._items.known_rows_of_lists(histories, "histories", unknown)
        self._count_skipped(num_skipped)
        return rows

    def _count_skipped(self, number: int) -> None:
        if number:
            with self._counting:
                self._num_skipped += number
