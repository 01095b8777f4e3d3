"""Histories by user id: those that a run was made from, and the events that came later."""

import bisect
import datetime
import math
import threading
from collections.abc import Callable, Iterable
from numbers import Real
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from store_engine.catalog.live_catalog import LiveCatalog
from store_engine.data.histories import Histories
from store_engine.errors import InputError, meant_id, shown
from store_engine.live.changes import LARGEST_TIME, Event, EventsAdded, UserForgotten

Unknown = Literal["error", "skip"]  # what to do with an id that nobody has


class UserHistories:
    """Histories that grow; safe to use from several threads.

    A user's history is the run's, then the later events by their time; of equal times the one that
    was added later is the later.

    Args:
        load: Reads the histories of the run, when a user is first asked for.
        items: The catalogue that the events' items are in.
    """

    def __init__(self, load: Callable[[], Histories], items: LiveCatalog) -> None:
        self._load, self._items = load, items
        self._first: Histories | None = None
        self._position: dict[str, int] = {}
        self._later: dict[str, list[tuple[float, int, int]]] = {}  # time, count, row
        self._forgotten: set[UserForgotten] = set()
        self._count, self._mutex = 0, threading.Lock()

    def rows(self, user_id: str) -> list[int] | None:
        """Returns a user's catalogue rows, oldest first; None: nobody has this id."""
        with self._mutex:
            later = [row for _, _, row in self._later.get(user_id, ())]
            position = self._find(user_id)
            if position is None:
                return later or None
            assert self._first is not None
            first: NDArray[np.int32] = self._first[position]
            return first.tolist() + later

    def __contains__(self, user_id: object) -> bool:
        """Whether somebody has this id."""
        return isinstance(user_id, str) and self.rows(user_id) is not None

    def unknown(self, user_id: str) -> InputError:
        """Makes the error for an id that nobody has, with the id that was probably meant."""
        meant = meant_id(user_id, self)
        hint = f", did you mean {shown(meant)}?" if meant else ""
        return InputError(f"unknown user id {shown(user_id)}{hint}")

    def user_ids(self) -> list[str]:
        """Lists all users: those of the run, then those who came later."""
        with self._mutex:
            self._find("")  # reads the run's
            assert self._first is not None
            first = {one: None for one in self._first.user_ids if self._find(one) is not None}
            return list(first | dict.fromkeys(self._later))

    def add(self, events: EventsAdded) -> None:
        """Adds events, all or none, whose items must have been in the catalogue at some time.

        Raises:
            InputError: An item is unknown.
        """
        rows = [self._items.row_of(event.item_id) for event in events.events]
        with self._mutex:
            for event, row in zip(events.events, rows, strict=True):
                self._count += 1
                one = (event.time, self._count, row)
                bisect.insort(self._later.setdefault(event.user_id, []), one)

    def later(self, most: int) -> EventsAdded:
        """Returns the later events of every user, the last `most` of each."""
        with self._mutex:
            return EventsAdded(
                tuple(
                    Event(user_id, self._items.item_id(row), time)
                    for user_id, events in self._later.items()
                    for time, _, row in events[-most:]
                )
            )

    def forget(self, user: UserForgotten) -> None:
        """Drops all that is known of a user up to now."""
        with self._mutex:
            self._forgotten.add(user)
            for user_id in [one for one in self._later if user.is_about(one)]:
                del self._later[user_id]

    def _find(self, user_id: str) -> int | None:
        """The user's position in the run's histories."""
        if self._first is None:
            self._first = self._load()
            self._position = {one: i for i, one in enumerate(self._first.user_ids)}
        if self._forgotten and UserForgotten.of(user_id) in self._forgotten:
            return None
        return self._position.get(user_id)


def check_events(
    events: Iterable[tuple[str, str, Any]], items: LiveCatalog, unknown: Unknown
) -> tuple[EventsAdded, int]:
    """Checks and copies events.

    Args:
        events: User id, item id and time of each; a time is a number or a `datetime`.
        items: The catalogue.
        unknown: What to do with an event whose item is not in it.

    Returns:
        The events, and how many were skipped.

    Raises:
        InputError: An item is unknown and `unknown` is "error", an id is empty or no text in UTF-8,
            or a time is not finite.
        TypeError: It is no list of such events.
    """
    _check_unknown(unknown)
    if isinstance(events, str | bytes) or not isinstance(events, Iterable):
        raise TypeError(f"events must be a list of (user, item, time), got {shown(events)}")
    checked, num_skipped = [], 0
    for number, event in enumerate(events):
        where = f"events[{number}]"
        if isinstance(event, str | bytes) or not isinstance(event, Iterable):
            raise TypeError(f"{where} must be (user, item, time), got {shown(event)}")
        parts = tuple(event)
        if len(parts) != 3:
            raise TypeError(f"{where} must be (user, item, time), got {shown(parts)}")
        user_id, item_id = (_id(one, where, name) for one, name in zip(parts, ("user", "item")))  # noqa: B905
        time = _time(parts[2], where)
        if item_id in items.view.table:
            checked.append(Event(user_id, item_id, time))
        elif unknown == "skip":
            num_skipped += 1
        else:
            try:
                items.row_of(item_id)
            except InputError as error:
                raise InputError(f"{where}: {error}") from error
    return EventsAdded(tuple(checked)), num_skipped


def _check_unknown(unknown: str) -> None:
    if unknown not in ("error", "skip"):
        raise InputError(f"unknown must be 'error' or 'skip', got {shown(unknown)}")


def _id(value: object, where: str, what: str) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{where}: the {what} id is text, got {shown(value)}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{where}: the {what} id holds half of a surrogate pair") from error
    if not value:
        raise InputError(f"{where}: the {what} id must not be empty")
    return str.__str__(value)


def _time(value: object, where: str) -> float:
    if isinstance(value, datetime.datetime):
        return value.timestamp()
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{where}: a time is a number or a datetime, got {shown(value)}")
    try:
        time = float(value)
    except OverflowError:
        time = math.inf
    if not math.isfinite(time) or abs(time) > LARGEST_TIME:
        raise InputError(f"{where}: a time must be finite, got {shown(value)}")
    return time
