"""The split of the histories: what may be learnt from, what choices are made by, what measures.

Every event has a period, and nothing of a later period is ever seen by what an earlier one makes.
"""

import functools
import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from store_engine.config import DataConfig
from store_engine.data.histories import TEST, TRAIN, VALID, Histories
from store_engine.errors import InputError

_NAMES = {VALID: "validation", TEST: "test"}


@dataclass(frozen=True)
class Examples:
    """Examples of different users: a history, and the item that came next.

    Args:
        histories: Per user an int32 array of catalogue rows, oldest first, at least one.
        targets: (num_users,) int32, the row of the event that came next.
    """

    histories: list[NDArray[np.int32]]
    targets: NDArray[np.int32]


@dataclass(frozen=True)
class Split:
    """Training events and the examples that measure the result; each is made when asked for.

    Args:
        protocol: Its name, printed with every result.
        histories: All events.
        periods: (num_events,) int8, TRAIN, VALID or TEST, of each event.
        valid_events: Places in `histories.rows` of the validation's targets, one of a user.
        test_events: The same of the test.
    """

    protocol: str
    histories: Histories
    periods: NDArray[np.int8]
    valid_events: NDArray[np.int64]
    test_events: NDArray[np.int64]

    @functools.cached_property
    def train(self) -> Histories:
        """The events that the model is trained on; of all users, whoever has none among them."""
        return self.histories.of_events(self.periods == TRAIN)

    @functools.cached_property
    def before_test(self) -> Histories:
        """All events before the test's period: what a server has counted by then."""
        return self.histories.of_events(self.periods < TEST)

    @functools.cached_property
    def valid(self) -> Examples:
        """Examples for choices made while training, such as when to stop."""
        return self._examples(self.valid_events)

    @functools.cached_property
    def test(self) -> Examples:
        """Examples for the final result."""
        return self._examples(self.test_events)

    def users_of(self, events: NDArray[np.int64]) -> NDArray[np.int64]:
        """Returns the position of the user of each event."""
        users: NDArray[np.int64] = np.searchsorted(self.histories.offsets, events, side="right") - 1
        return users

    def _examples(self, events: NDArray[np.int64]) -> Examples:
        """The events as targets, everything before each of them as its history."""
        rows, offsets = self.histories.rows, self.histories.offsets
        begins = offsets[self.users_of(events)]
        seen = [rows[a:b] for a, b in zip(begins.tolist(), events.tolist(), strict=True)]
        return Examples(seen, rows[events])


def split_histories(histories: Histories, settings: DataConfig) -> Split:
    """Splits histories as a config says.

    Args:
        histories: Of users with at least three events; for `split = "temporal"` with periods.
        settings: `split`, and where it draws or cuts `valid_share`, `test_share` and `seed`.

    Raises:
        InputError: Nobody is left to validate or to test on.
        ValueError: A user has fewer than three events.
    """
    if settings.split == "leave_one_out":
        return leave_one_out(histories)
    if settings.split == "by_user":
        split = by_user(histories, (settings.valid_share, settings.test_share), settings.seed)
    else:
        split = temporal(histories)
    for period, events in ((VALID, split.valid_events), (TEST, split.test_events)):
        if not len(events):
            raise InputError(
                f"data.split = {settings.split!r} leaves nobody for the {_NAMES[period]}: "
                f"{histories.num_users:,} users, data.valid_share = {settings.valid_share:g}, "
                f"data.test_share = {settings.test_share:g}"
            )
    if not (split.periods == TRAIN).any():
        raise InputError(f"data.split = {settings.split!r} leaves no event to train on")
    return split


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
    periods = np.full(histories.num_events, TRAIN)
    periods[ends - 2], periods[ends - 1] = VALID, TEST
    return Split("leave-one-out", histories, periods, ends - 2, ends - 1)


def by_user(histories: Histories, shares: tuple[float, float], seed: int) -> Split:
    """Parts the users: of some all events train, of others the last event is to be found.

    A user's part is drawn from the user's id alone, so that it stays when other users come or go.
    Source: STORE (arXiv 2409.07276), whose test users are none of the training's.

    Args:
        histories: Of at least two events each.
        shares: Of the users, those of validation and test: each user's chance to be one.
        seed: Of the draw.
    """
    valid_share, test_share = shares
    draws = np.array([_draw(user_id, seed) for user_id in histories.user_ids])
    part = np.full(histories.num_users, TRAIN)
    part[draws < test_share + valid_share] = VALID
    part[draws < test_share] = TEST
    last = histories.offsets[1:] - 1
    periods = np.repeat(part, np.diff(histories.offsets))
    return Split("by user", histories, periods, last[part == VALID], last[part == TEST])


def temporal(histories: Histories) -> Split:
    """Splits at two points in time, the same for all users.

    Whoever has events before the test's point and from there on is a test user, whose first event
    from there on is to be found; so is validation, between its point and the test's. What trains
    is all before the validation's point.

    Raises:
        InputError: The events' periods are not known.
    """
    if histories.periods is None:
        raise InputError("data.split = 'temporal' needs events whose times were read with it")
    periods = histories.periods
    before = np.r_[np.int8(TEST), periods[:-1]]  # of the event before, of whoever it is
    is_first = np.zeros(histories.num_events + 1, dtype=np.bool_)
    is_first[histories.offsets] = True
    is_target = ~is_first[:-1] & (before < periods)
    targets = {period: np.flatnonzero(is_target & (periods == period)) for period in _NAMES}
    return Split("temporal", histories, periods, targets[VALID], targets[TEST])


def _draw(user_id: str, seed: int) -> float:
    """A number in [0, 1) that depends on a user's id and the seed alone."""
    digest = hashlib.sha256(f"{seed}:{user_id}".encode(errors="surrogatepass")).digest()
    return int.from_bytes(digest[:6], "big") / 2**48
