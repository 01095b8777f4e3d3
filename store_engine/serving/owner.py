"""The one process that changes a run's catalogue, and what it tells the replicas.

A change is in the journal, on the disk, before anybody sees it. Replicas get the changes from here
and not from the journal's file, which SQLite can only share within one machine.
"""

import itertools
import os
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from store_engine.decoding.engine import Engine
from store_engine.errors import InputError
from store_engine.live.changes import Change, Encoded, ItemsAdded, ItemsRemoved, decode, encode
from store_engine.live.journal import Journal

NewItems = Sequence[tuple[str, dict[str, str]]]  # id and text by field
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
    sids: Sids  # of items that were added
    remarks: list[str]  # what their owner should look at


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

    def add(self, items: NewItems) -> Changed:
        """Adds items by their text.

        Raises:
            InputError: An item cannot be added; none is then.
        """
        texts = dict(items)
        if len(texts) < len(items):
            raise InputError("an item is named twice")
        with warnings.catch_warnings(record=True) as remarks:
            warnings.simplefilter("always", UserWarning)
            sids = self.engine.add_items(texts)
        return Changed(self.sequence, sids, [str(one.message) for one in remarks])

    def remove(self, item_ids: Sequence[str]) -> Changed:
        """Removes items.

        Raises:
            InputError: An item cannot be removed; none is then.
        """
        self.engine.remove_items(item_ids)
        return Changed(self.sequence, {}, [])

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
        """Makes the changes that another run's catalogue had and this one's lacks.

        Items that were added there and are not here are read anew, by this run's LLM.

        Raises:
            InputError: An item cannot be added or removed.
        """
        theirs = other._final()
        is_here = dict(zip(theirs, self.engine.has_items(list(theirs)), strict=True))
        added = [(i, text) for i, text in theirs.items() if text is not None and not is_here[i]]
        removed = [i for i, text in theirs.items() if text is None and is_here[i]]
        if added:
            self.add(added)
        if removed:
            self.remove(removed)

    def _final(self) -> dict[str, dict[str, str] | None]:
        """What the journal's changes came to: the text of an item, None if it was removed."""
        final: dict[str, dict[str, str] | None] = {}
        for _, what in self._journal.changes():
            match what:
                case ItemsAdded(items):  # and ItemsUpdated
                    rows = zip(*items.fields.values(), strict=True)
                    texts = [dict(zip(items.fields, row, strict=True)) for row in rows]
                    final |= dict(zip(items.item_ids, texts, strict=True))
                case ItemsRemoved(item_ids):
                    final |= dict.fromkeys(item_ids)
        return final

    def close(self) -> None:
        """Gives the run back."""
        self.engine.close()
