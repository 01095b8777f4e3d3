"""The split of the histories into training events, validation examples and test examples."""

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from store_engine.data.histories import Histories


@dataclass(frozen=True)
class Examples:
    """One example per user: a history, and the item that came next.

    Args:
        histories: Per user an int32 array of catalogue rows, oldest first, at least one.
        targets: (num_users,) int32, the row of the event that came next.
    """

    histories: list[NDArray[np.int32]]
    targets: NDArray[np.int32]


@dataclass(frozen=True)
class Split:
    """Training events and the examples that measure the result.

    Args:
        protocol: Its name, printed with every result.
        train: The events that the model is trained on.
        valid: Examples for choices made while training, such as when to stop.
        test: Examples for the final result.
    """

    protocol: str
    train: Histories
    valid: Examples
    test: Examples

    @functools.cached_property
    def before_test(self) -> Histories:
        """All events before the test's targets: what a server has counted by then."""
        lengths = [len(history) for history in self.test.histories]
        rows = np.concatenate([np.empty(0, dtype=np.int32), *self.test.histories])
        offsets = np.cumsum([0, *lengths], dtype=np.int64)
        return Histories(self.train.user_ids, rows, offsets)


def leave_one_out(histories: Histories) -> Split:
    """Splits every history: the last event is the test, the one before is the validation.

    Train is all but the last two events; the validation sees those, and the test sees all but the
    last, as in SASRec, TIGER and most papers on these data sets.

    Raises:
        ValueError: A user has fewer than three events.
    """
    lengths = np.diff(histories.offsets)
    if (lengths < 3).any():
        user = int(np.argmax(lengths < 3))
        raise ValueError(
            f"leave-one-out needs 3 events per user, "
            f"got {lengths[user]} for user {histories.user_ids[user]!r}"
        )
    ends = histories.offsets[1:]
    is_train = np.ones(histories.num_events, dtype=np.bool_)
    is_train[ends - 1] = is_train[ends - 2] = False
    train = Histories(
        histories.user_ids,
        histories.rows[is_train],
        histories.offsets - 2 * np.arange(histories.num_users + 1),
    )
    return Split("leave-one-out", train, _held_out(histories, 2), _held_out(histories, 1))


def _held_out(histories: Histories, back: int) -> Examples:
    """Takes the event `back` from the end as the target, everything before it as the history."""
    rows, ends = histories.rows, histories.offsets[1:] - back
    begins = histories.offsets[:-1]
    seen = [rows[a:b] for a, b in zip(begins.tolist(), ends.tolist(), strict=True)]
    return Examples(seen, rows[ends])
