"""Many small changes as few large ones, which are applied faster and come to the same."""

from collections.abc import Iterable, Iterator

import numpy as np

from store_engine.data.catalog import Catalog
from store_engine.live.changes import Change, EventsAdded, ItemsAdded, ItemsRemoved, What

_MAX_JOINED = 1 << 16  # changes, and items or events of all of them


def coalesced(changes: Iterable[Change]) -> Iterator[Change]:
    """Joins changes of one kind that follow each other.

    Args:
        changes: In order. An item is not added twice, nor removed twice, without another kind of
            change between.

    Yields:
        Changes that have the number of the last that they are made of.
    """
    waiting: list[Change] = []
    size = 0
    for change in changes:
        if waiting and (size >= _MAX_JOINED or not _can_join(waiting[-1].what, change.what)):
            yield _joined(waiting)
            waiting, size = [], 0
        waiting.append(change)
        size += 1 + _size(change.what)
    if waiting:
        yield _joined(waiting)


def _can_join(one: What, other: What) -> bool:
    if type(one) is not type(other) or type(one) not in (ItemsAdded, ItemsRemoved, EventsAdded):
        return False
    return _form(one) == _form(other)


def _form(what: What) -> object:
    """What two changes must have alike to be joined."""
    if not isinstance(what, ItemsAdded):
        return None
    width = None if what.features is None else what.features.shape[1]
    return tuple(what.items.fields), what.sids.shape[1], width


def _size(what: What) -> int:
    match what:
        case ItemsAdded(items):
            return items.num_items
        case ItemsRemoved(item_ids):
            return len(item_ids)
        case EventsAdded(events):
            return len(events)
    return 0


def _joined(changes: list[Change]) -> Change:
    last = changes[-1]
    if len(changes) == 1:
        return last
    added = [change.what for change in changes if isinstance(change.what, ItemsAdded)]
    if added:
        ids = tuple(item_id for what in added for item_id in what.items.item_ids)
        fields = {
            name: tuple(text for what in added for text in what.items.fields[name])
            for name in added[0].items.fields
        }
        features = [what.features for what in added if what.features is not None]
        sids = np.concatenate([what.sids for what in added])
        numbers = np.concatenate(features) if features else None
        return last._replace(what=ItemsAdded(Catalog(ids, fields), sids, numbers))
    if isinstance(last.what, ItemsRemoved):
        removed = [change.what for change in changes if isinstance(change.what, ItemsRemoved)]
        ids = tuple(item_id for what in removed for item_id in what.item_ids)
        return last._replace(what=ItemsRemoved(ids))
    events = [change.what for change in changes if isinstance(change.what, EventsAdded)]
    return last._replace(what=EventsAdded(tuple(one for what in events for one in what.events)))
