"""Ridge regression of what comes next on what came before.

With P (steps, items) the decayed past of every step and T (steps, items) what came then,
B = (P^T P + ridge I)^-1 P^T T. Source: SLIST, Choi et al., WWW 2021, https://arxiv.org/abs/2103.16104;
the next item alone is the target here.
"""

from collections.abc import Iterator

import numpy as np
import scipy.sparse as sp
import torch

from store_engine.collaborative.top_votes import TopVotes
from store_engine.data.histories import Histories

_RIDGE = 20.0
_DECAY = 0.7  # weight of an event of the past against the one after it
_PAST = 20  # events of the past that are looked at
_STEPS = 100_000  # steps whose pasts are held at once
_BLOCK = 512  # sources whose votes are dense at once


def next_item_regression(train: Histories, num_items: int, k: int) -> sp.csr_array:
    """Regresses what comes next on the past.

    Holds two dense float32 matrices of (num_items, num_items): 3.2 GB at 20,000 items. Time grows
    with the cube: about num_items^3 multiplications.

    Args:
        train: The events.
        num_items: Size of the catalogue.
        k: Largest positive votes kept per item.

    Returns:
        (num_items, num_items) float32, entry [a, b] the vote of a, in the past, for b.
    """
    gram = torch.zeros(num_items, num_items)
    gram.diagonal().add_(_RIDGE)
    votes = sp.csr_array((num_items, num_items), dtype=np.float64)
    for past, following in _steps(train, num_items):
        products = (past.T @ past).tocoo()
        gram.numpy()[products.row, products.col] += products.data
        votes = votes + past.T @ following
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram, out=gram))
    del gram
    targets = votes.T.tocsr().astype(np.float32)
    top = TopVotes(num_items, k)
    for begin in range(0, num_items, _BLOCK):
        # the inverse is symmetric: its columns are its rows
        columns = np.ascontiguousarray(inverse[begin : begin + _BLOCK].numpy().T)
        top.add(torch.from_numpy(np.ascontiguousarray((targets @ columns).T)))
    return top.matrix()


def _steps(train: Histories, num_items: int) -> Iterator[tuple[sp.csr_array, sp.csr_array]]:
    """Blocks of events that have a past: it, decayed, and the event, (num_steps, num_items)."""
    users = np.repeat(np.arange(train.num_users), np.diff(train.offsets))
    begins = np.repeat(train.offsets[:-1], np.diff(train.offsets))
    events = np.flatnonzero(np.arange(train.num_events) > begins)
    for first in range(0, len(events), _STEPS):
        steps = events[first : first + _STEPS]
        count = np.arange(len(steps))
        rows, columns, weights = [], [], []
        for back in range(1, _PAST + 1):
            has_event = steps - back >= 0
            has_event[has_event] = users[steps[has_event] - back] == users[steps[has_event]]
            rows.append(count[has_event])
            columns.append(train.rows[steps[has_event] - back])
            weights.append(np.full(len(rows[-1]), _DECAY ** (back - 1)))
        shape = (len(steps), num_items)
        where = (np.concatenate(rows), np.concatenate(columns))
        past = sp.csr_array(sp.coo_array((np.concatenate(weights), where), shape=shape))
        following = sp.coo_array((np.ones(len(steps)), (count, train.rows[steps])), shape=shape)
        yield past, sp.csr_array(following)
