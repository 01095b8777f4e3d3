"""Why an item: what the LLM and the evidence give it, and which items of the history they mean."""

import dataclasses
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from store_engine._C import RowSet
from store_engine.catalog.catalog_view import CatalogView
from store_engine.catalog.live_catalog import LiveCatalog
from store_engine.decoding.allowance import Allowance
from store_engine.decoding.evidence import Found
from store_engine.decoding.search_batch import Call
from store_engine.errors import InputError


class HistoryReason(NamedTuple):
    """What one event of a history has to do with an item.

    Args:
        item_id: The event's item.
        evidence: Its part of the item's evidence, by its votes and its age; below 0 where experts
            that are subtracted prevail.
        logprob_gain: How much more likely the LLM finds the item because of this event: its
            log-probability after the whole history less that after the history without the event.
        shared_codes: How many first codes their SIDs share.
    """

    item_id: str
    evidence: float
    logprob_gain: float
    shared_codes: int


class Explanation(NamedTuple):
    """Why an item is recommended as it is.

    Args:
        item_id: The item.
        sid: Its SID.
        logprob: The LLM's log-probability of the SID after the history.
        evidence: What the history's votes count for it; what is no event's is a new item's offset.
            0 without evidence.
        history: A reason for every event that the engine reads, oldest first.
    """

    item_id: str
    sid: tuple[int, ...]
    logprob: float
    evidence: float
    history: tuple[HistoryReason, ...]

    @property
    def score(self) -> float:
        """What the item is ranked by."""
        return self.logprob + self.evidence

    @property
    def shares(self) -> tuple[float, ...]:
        """Share of the evidence that each event brings; all 0 where the sum is not above 0."""
        votes = np.array([reason.evidence for reason in self.history])
        total = votes.sum()
        return tuple((votes / total).tolist()) if total > 0 else (0.0,) * len(votes)


def only_item(call: Call, row: int) -> Call:
    """Returns a call that may give every history this item and no other.

    Raises:
        InputError: The item was removed.
    """
    wanted, num = np.array([row], dtype=np.int64), len(call.histories)
    if not len(call.view.trie_rows(wanted)):
        raise InputError(f"item {call.view.table.item_id(row)!r} was removed")

    def alone(view: CatalogView) -> Allowance:
        only = RowSet.from_rows(view.trie.item_trie, view.trie_rows(wanted))
        return Allowance(view, [only] * num, [np.zeros(0, dtype=np.int64)] * num)

    voters = None if call.voters is None else alone(call.voters.view)
    return dataclasses.replace(call, allowance=alone(call.view), voters=voters)


def explanation(
    items: LiveCatalog, rows: list[int], row: int, found: Found, votes: NDArray[np.float32]
) -> Explanation:
    """Puts an explanation together.

    Args:
        items: The catalogue.
        rows: Catalogue rows of the history.
        row: The item's.
        found: (1 + len(rows), 1) its score after the history, and after that without each event.
        votes: (len(rows),) the events' evidence.
    """
    sids, logprobs = items.view.table.sids, found.logprobs[:, 0]
    shared = np.logical_and.accumulate(sids[rows] == sids[row], axis=1).sum(1)
    gains = (logprobs[0] - logprobs[1:]).tolist()
    reasons = zip(map(items.item_id, rows), votes.tolist(), gains, shared.tolist(), strict=True)
    return Explanation(
        items.item_id(row),
        tuple(sids[row].tolist()),
        float(logprobs[0]),
        float(found.evidence[0, 0]),
        tuple(HistoryReason(*reason) for reason in reasons),
    )
