"""The one process that changes a run's catalogue, and what it tells the replicas.

A change is in the journal, on the disk, before anybody sees it. Replicas get the changes from here
and not from the journal's file, which SQLite can only share within one machine.
"""

import itertools
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from store_engine.decoding.engine import Engine
from store_engine.errors import InputError
from store_engine.live.changes import (
    Change,
    Encoded,
    Event,
    EventsAdded,
    ItemsAdded,
    ItemsRemoved,
    ItemsUpdated,
    decode,
    encode,
)
from store_engine.live.journal import Journal
from store_engine.live.user_histories import Unknown

Texts = Sequence[tuple[str, dict[str, str]]]  # id and text by field
Sids = dict[str, tuple[int, ...]]
BEFORE_ALL = -1
_CHANGES_PER_LETTER = 1000


class Letter(NamedTuple):
    """Changes on their way to a replica, as plain values."""

    after: int  # the change that the reader must have; BEFORE_ALL: the run's files alone
    upto: int  # the last of these changes
    changes: list[tuple[int, Encoded]]  # number and content

    @classmethod
    def of(cls, after: int, upto: int, changes: Iterable[Change]) -> "Letter":
        """Packs changes."""
        return cls(after, upto, [(one.sequence, encode(one.what)) for one in changes])

    def unpack(self) -> list[Change]:
        """The changes."""
        return [Change(sequence, decode(Encoded(*rows))) for sequence, rows in self.changes]


class Changed(NamedTuple):
    """A change that is in the journal."""

    sequence: int
    sids: Sids  # of items that were read
    remarks: list[str]  # what their owner should look at
    num_skipped: int = 0  # events left out, because nobody has their item


class _Final(NamedTuple):
    """What all changes of a run came to."""

    texts: dict[str, dict[str, str] | None]  # of items that were added or updated; None: removed
    updated: set[str]
    events: list[Event]


class CatalogOwner:
    """An engine that takes changes, and its journal. Its methods are called one at a time.

    Args:
        run_dir: A finished run.
        device: Where the LLM reads the texts of new items.

    Raises:
        InputError: The run cannot be loaded, or another process owns it.
    """

    def __init__(self, run_dir: Path, device: str = "auto") -> None:
        self.run_dir = run_dir.resolve()
        self.engine = Engine.load(self.run_dir, device=device)
        assert self.engine.journal is not None
        self._journal: Journal = self.engine.journal
        if os.access(self.run_dir, os.W_OK):  # else it can be served, but not changed
            self._journal.begin_writing()

    @property
    def run(self) -> str:
        """The run's name."""
        return self.run_dir.name

    @property
    def sequence(self) -> int:
        """Number of the last change."""
        return self.engine.sequence

    def add(self, items: Texts) -> Changed:
        """Adds items by their text.

        Raises:
            InputError: An item cannot be added; none is then.
        """
        return self._read(items, self.engine.add_items)

    def update(self, items: Texts) -> Changed:
        """Replaces the texts of items.

        Raises:
            InputError: An item cannot be updated; none is then.
        """
        return self._read(items, self.engine.update_items)

    def _read(self, items: Texts, act: Callable[[dict[str, dict[str, str]]], Sids]) -> Changed:
        texts = dict(items)
        if len(texts) < len(items):
            raise InputError("an item is named twice")
        with warnings.catch_warnings(record=True) as remarks:
            warnings.simplefilter("always", UserWarning)
            sids = act(texts)
        return Changed(self.sequence, sids, [str(one.message) for one in remarks])

    def remove(self, item_ids: Sequence[str]) -> Changed:
        """Removes items.

        Raises:
            InputError: An item cannot be removed; none is then.
        """
        self.engine.remove_items(item_ids)
        return Changed(self.sequence, {}, [])

    def add_events(self, events: Sequence[tuple[str, str, float]], unknown: Unknown) -> Changed:
        """Goes on with the histories of users; each event is a user id, an item id and a time.

        Raises:
            InputError: An item is unknown and not to be skipped; nothing is added then.
        """
        num_skipped = self.engine.add_events(events, unknown=unknown)
        return Changed(self.sequence, {}, [], num_skipped)

    def since(self, sequence: int) -> Letter:
        """Packs the changes after one, up to a thousand; after BEFORE_ALL all of them.

        Raises:
            InputError: There never was such a change.
        """
        if sequence == BEFORE_ALL:
            changes = list(self._journal.changes())
            upto = max([self._journal.base, *(change.sequence for change in changes)])
            return Letter.of(sequence, upto, changes)
        changes = list(itertools.islice(self._journal.since(sequence), _CHANGES_PER_LETTER))
        return Letter.of(sequence, changes[-1].sequence if changes else sequence, changes)

    def take_over(self, other: "CatalogOwner") -> None:
        """Makes the changes that another run had and this one lacks.

        Items that were added there and are not here are read anew, by this run's LLM; so are
        texts that were updated there. A user's history gets as many events of each item as there.

        Raises:
            InputError: An item cannot be added, updated or removed.
        """
        final = other._final()
        is_here = dict(zip(final.texts, self.engine.has_items(list(final.texts)), strict=True))
        there = {i: text for i, text in final.texts.items() if text is not None}
        added = [(i, text) for i, text in there.items() if not is_here[i]]
        kept = {i: text for i, text in there.items() if is_here[i] and i in final.updated}
        removed = [i for i, text in final.texts.items() if text is None and is_here[i]]
        if added:
            self.add(added)
        if updated := self._differing(kept):
            self.update(updated)
        if removed:
            self.remove(removed)
        if events := self._lacking(final.events, other.engine):
            self.add_events(events, "skip")

    def _final(self) -> "_Final":
        """What the journal's changes came to."""
        final = _Final({}, set(), [])
        for _, what in self._journal.changes():
            match what:
                case ItemsAdded(items):
                    rows = zip(*items.fields.values(), strict=True)
                    texts = [dict(zip(items.fields, row, strict=True)) for row in rows]
                    final.texts.update(zip(items.item_ids, texts, strict=True))
                    if isinstance(what, ItemsUpdated):
                        final.updated.update(items.item_ids)
                case ItemsRemoved(item_ids):
                    final.texts.update(dict.fromkeys(item_ids))
                case EventsAdded(events):
                    final.events.extend(events)
        return final

    def _differing(self, texts: dict[str, dict[str, str]]) -> Texts:
        """Items whose texts are others here, with the given texts in the fields that are here."""
        catalog, found = self.engine.catalog, []
        for item_id, text in texts.items():
            row = catalog.row_of(item_id)
            own = {name: column[row] for name, column in catalog.fields.items()}
            new = {name: text.get(name, before) for name, before in own.items()}
            if new != own:
                found.append((item_id, new))
        return found

    def _lacking(self, events: Iterable[Event], other: Engine) -> list[Event]:
        """Events by which another engine's histories hold more of an item than those here."""
        more: dict[str, Counter[str]] = {}
        found = []
        for event in sorted(events, key=lambda one: one.time)[::-1]:  # the newest first
            user_id, item_id = event.user_id, event.item_id
            if user_id not in more:
                there, here = (
                    Counter(engine.history_of(user_id) if engine.knows_user(user_id) else ())
                    for engine in (other, self.engine)
                )
                more[user_id] = there - here
            if more[user_id][item_id] > 0:
                more[user_id][item_id] -= 1
                found.append(event)
        return found[::-1]

    def close(self) -> None:
        """Gives the run back."""
        self.engine.close()
