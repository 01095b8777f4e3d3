"""What a journal holds: every kind of change, as rows of SQLite and back.

A journal can be damaged or hostile: every value is looked at before anything is made of it, and a
digest over a change's rows tells what was written from what was not.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from store_engine.data.catalog import Catalog
from store_engine.errors import shown
from store_engine.files.digest import text_sha256

MAX_LEVELS = 16  # of the core's trie
LARGEST_TIME = 1e18  # of an event, either side of 0

# new items as callers give them: item id -> field -> text; a field that is left out is empty
Texts = Mapping[str, Mapping[str, Any]]

# item rows: position, item id, text, SID, features; event rows: position, user id, item id, time
Rows = list[tuple[Any, ...]]


class Event(NamedTuple):
    """One event: who, what and when."""

    user_id: str
    item_id: str
    time: float  # in any unit; of one user's equal times the later added is the later


@dataclass(frozen=True, eq=False)
class ItemsAdded:
    """New items.

    Args:
        items: The items.
        sids: (num_items, num_levels) int32.
        features: (num_items, num_features) float32, where the last code is the item itself.
    """

    items: Catalog
    sids: NDArray[np.int32]
    features: NDArray[np.float32] | None = None


@dataclass(frozen=True, eq=False)
class ItemsUpdated(ItemsAdded):
    """Items of the catalogue whose text changed, and with it perhaps their SIDs."""


@dataclass(frozen=True)
class ItemsRemoved:
    """Items that are found no more."""

    item_ids: tuple[str, ...]


@dataclass(frozen=True)
class EventsAdded:
    """Events that go on with the histories of users."""

    events: tuple[Event, ...]


@dataclass(frozen=True)
class UserForgotten:
    """A user whose events were deleted; the id itself is not kept.

    Args:
        user_sha256: SHA-256 of the user id in UTF-8, in hexadecimal.
    """

    user_sha256: str

    @classmethod
    def of(cls, user_id: str) -> "UserForgotten":
        """Makes the change that forgets a user."""
        return cls(text_sha256(user_id))

    def is_about(self, user_id: str) -> bool:
        """Whether it is this user."""
        return self == UserForgotten.of(user_id)


What = ItemsAdded | ItemsUpdated | ItemsRemoved | EventsAdded | UserForgotten
_KINDS: dict[type[What], str] = {
    ItemsAdded: "add",
    ItemsUpdated: "update",
    ItemsRemoved: "remove",
    EventsAdded: "events",
    UserForgotten: "forget",
}


class Change(NamedTuple):
    """One change: it has happened in full or not at all."""

    sequence: int  # 1, 2, 3, ... in the order in which the changes happened
    what: What


class Encoded(NamedTuple):
    """A change as rows."""

    kind: str
    note: str  # the digest of a forgotten user
    items: Rows
    events: Rows

    def digest(self, sequence: int) -> bytes:
        """Returns the SHA-256 of the change under its number."""
        total = hashlib.sha256(json.dumps([sequence, self.kind, self.note]).encode())
        for name, rows in (("items", self.items), ("events", self.events)):
            for row in rows:
                total.update(json.dumps([name, *row], default=bytes.hex).encode() + b"\n")
        return total.digest()


def encode(what: What) -> Encoded:
    """Makes rows of a change."""
    kind = _KINDS[type(what)]
    match what:
        case ItemsAdded(items, sids, features):
            sid_bytes = [row.tobytes() for row in np.ascontiguousarray(sids, dtype="<i4")]
            numbers: list[bytes | None] = [None] * len(sid_bytes)
            if features is not None:
                numbers = [row.tobytes() for row in np.ascontiguousarray(features, dtype="<f4")]
            texts = (
                json.dumps(dict(zip(items.fields, row, strict=True)), ensure_ascii=False)
                for row in zip(*items.fields.values(), strict=True)
            )
            columns = range(len(sid_bytes)), items.item_ids, texts, sid_bytes, numbers
            return Encoded(kind, "", list(zip(*columns, strict=True)), [])
        case ItemsRemoved(item_ids):
            rows = [(i, item_id, None, None, None) for i, item_id in enumerate(item_ids)]
            return Encoded(kind, "", rows, [])
        case EventsAdded(events):
            return Encoded(kind, "", [], [(i, *event) for i, event in enumerate(events)])
        case UserForgotten(user_sha256):
            return Encoded(kind, user_sha256, [], [])


def decode(encoded: Encoded) -> What:
    """Makes a change of rows.

    Raises:
        ValueError: They are no change.
    """
    kind, note, items, events = encoded
    if kind in ("add", "update") and items and not events:
        return (ItemsAdded if kind == "add" else ItemsUpdated)(*_decode_items(items))
    if kind == "remove" and items and not events:
        return ItemsRemoved(tuple(_text(row[1], "an item id") for row in items))
    if kind == "events" and not items:  # none where all were of users who were forgotten
        return EventsAdded(tuple(_decode_event(row) for row in events))
    if kind == "forget" and not items and not events and len(note) == 64:
        return UserForgotten(note)
    raise ValueError(f"it holds no change of kind {shown(kind)}")


def _decode_items(
    rows: Rows,
) -> tuple[Catalog, NDArray[np.int32], NDArray[np.float32] | None]:
    ids = tuple(_text(row[1], "an item id") for row in rows)
    texts = [_decode_text(row[2]) for row in rows]
    fields = tuple(texts[0])
    if any(tuple(text) != fields for text in texts):
        raise ValueError("the items of a change have different fields")
    catalog = Catalog(ids, {name: tuple(text[name] for text in texts) for name in fields})
    sids = _decode_numbers([row[3] for row in rows], "<i4", "a SID")
    if not 1 <= sids.shape[1] <= MAX_LEVELS:
        raise ValueError(f"a SID has 1 to {MAX_LEVELS} codes, got {sids.shape[1]}")
    if all(row[4] is None for row in rows):
        return catalog, sids.astype(np.int32), None
    features = _decode_numbers([row[4] for row in rows], "<f4", "features")
    return catalog, sids.astype(np.int32), features.astype(np.float32)


def _decode_text(value: Any) -> dict[str, str]:
    text = json.loads(_text(value, "an item's text"))
    if not isinstance(text, dict) or not all(isinstance(one, str) for one in text.values()):
        raise ValueError("an item's text must map fields to texts")
    return text


def _decode_numbers(blobs: Sequence[Any], dtype: str, what: str) -> NDArray[Any]:
    """(num_items, n): the numbers of each blob."""
    if not all(isinstance(blob, bytes) for blob in blobs):
        raise ValueError(f"{what} must be bytes")
    lengths = {len(blob) for blob in blobs}
    if len(lengths) != 1 or (length := lengths.pop()) == 0 or length % 4:
        raise ValueError(f"{what} must have as many numbers for every item, of 4 bytes")
    return np.frombuffer(b"".join(blobs), dtype=dtype).reshape(len(blobs), -1)


def _decode_event(row: Iterable[Any]) -> Event:
    _, user_id, item_id, time = row
    if not isinstance(time, int | float) or not math.isfinite(time) or abs(time) > LARGEST_TIME:
        raise ValueError(f"the time of an event must be a number, got {shown(time)}")
    return Event(_text(user_id, "a user id"), _text(item_id, "an item id"), float(time))


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{what} must be text, got {shown(value)}")
    return value
