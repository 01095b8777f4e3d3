"""Histories: what every user did, in time order, as catalogue rows in one flat array."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from store_engine.files.atomic import atomic_open
from store_engine.files.npz import ArrayForm, read_npz
from store_engine.files.regular import parse_errors

# of an event: may be learnt from, makes choices, or measures the result
TRAIN, VALID, TEST = np.int8(0), np.int8(1), np.int8(2)

# from this share of repeated items on, a user's own items are worth recommending
COMMON_REPEATS = 0.01

_ARRAYS = {
    "rows": ArrayForm("i", 1),
    "offsets": ArrayForm("i", 1),
    "id_bytes": ArrayForm("u", 1),
    "id_lengths": ArrayForm("i", 1),
    "periods": ArrayForm("i", 1, is_optional=True),
}


@dataclass(frozen=True)
class Histories:
    """Events by user, then time.

    Args:
        user_ids: One id per user.
        rows: (num_events,) int32, the catalogue row of each event.
        offsets: (num_users + 1,) int64; the events of user u are rows[offsets[u]:offsets[u + 1]].
        periods: (num_events,) int8, TRAIN, VALID or TEST: where each event lies between the points
            in time of `data.split = "temporal"`; None: they were not cut by time.

    Raises:
        ValueError: The arrays do not fit together, or a row is negative.
    """

    user_ids: tuple[str, ...]
    rows: NDArray[np.int32]
    offsets: NDArray[np.int64]
    periods: NDArray[np.int8] | None = None

    def __post_init__(self) -> None:
        """Refuses arrays that do not describe histories."""
        if self.rows.dtype != np.int32 or self.rows.ndim != 1:
            raise ValueError(f"rows must be 1-d int32, got {self.rows.ndim}-d {self.rows.dtype}")
        if self.offsets.dtype != np.int64 or self.offsets.shape != (self.num_users + 1,):
            raise ValueError(
                f"offsets must be int64 ({self.num_users + 1},), "
                f"got {self.offsets.dtype} {self.offsets.shape}"
            )
        ends = (self.offsets[0], self.offsets[-1])
        if ends != (0, len(self.rows)) or (np.diff(self.offsets) < 0).any():
            raise ValueError(f"offsets must rise from 0 to {len(self.rows)}")
        if len(self.rows) and self.rows.min() < 0:
            raise ValueError(f"rows must not be negative, got {self.rows.min()}")
        if self.periods is not None:
            self._check_periods(self.periods)

    @property
    def num_users(self) -> int:
        """Users, also those without events."""
        return len(self.user_ids)

    @property
    def share_of_repeats(self) -> float:
        """Share of the events whose item the user had visited before; 0 where there is none."""
        users = np.repeat(np.arange(self.num_users), np.diff(self.offsets))
        num_pairs = len(np.unique(np.stack([users, self.rows]), axis=1).T)
        return 1 - num_pairs / len(self.rows) if len(self.rows) else 0.0

    @property
    def num_events(self) -> int:
        """Events of all users."""
        return len(self.rows)

    def __getitem__(self, user: int) -> NDArray[np.int32]:
        """Returns the history of the user at position `user`, oldest event first, as a view."""
        if not 0 <= user < self.num_users:
            raise IndexError(f"user must be in [0, {self.num_users}), got {user}")
        return self.rows[self.offsets[user] : self.offsets[user + 1]]

    def of_events(self, is_kept: NDArray[np.bool_]) -> "Histories":
        """Leaves out events; users stay, also those who have none then.

        Args:
            is_kept: (num_events,).
        """
        num_kept = np.r_[0, np.cumsum(is_kept)]
        periods = None if self.periods is None else self.periods[is_kept]
        return Histories(self.user_ids, self.rows[is_kept], num_kept[self.offsets], periods)

    def of_users(self, is_kept: NDArray[np.bool_]) -> "Histories":
        """Leaves out users.

        Args:
            is_kept: (num_users,).
        """
        lengths = np.diff(self.offsets)
        ids = tuple(i for i, kept in zip(self.user_ids, is_kept.tolist(), strict=True) if kept)
        offsets = np.r_[0, np.cumsum(lengths[is_kept])].astype(np.int64)
        is_kept_event = np.repeat(is_kept, lengths)
        periods = None if self.periods is None else self.periods[is_kept_event]
        return Histories(ids, self.rows[is_kept_event], offsets, periods)

    def followed_by(self, later: "Histories") -> "Histories":
        """Puts each user's later events behind the ones here; users that are new come last.

        Args:
            later: In rows of the same catalogue.

        Returns:
            The events of both, without periods.
        """
        place = {user_id: user for user, user_id in enumerate(self.user_ids)}
        for user_id in later.user_ids:
            place.setdefault(user_id, len(place))
        both = (self, later)
        owners = [np.array([place[u] for u in one.user_ids], dtype=np.int64) for one in both]
        users = np.concatenate(
            [
                np.repeat(owner, np.diff(one.offsets))
                for owner, one in zip(owners, both, strict=True)
            ]
        )
        order = np.argsort(users, kind="stable")
        counts = np.bincount(users, minlength=len(place))
        rows = np.concatenate([self.rows, later.rows])[order]
        return Histories(tuple(place), rows, np.r_[0, np.cumsum(counts)].astype(np.int64))

    def save(self, path: str | Path) -> None:
        """Writes an npz file, which either stands complete or not at all."""
        # ids as one blob: a fixed-width string array would pay the longest id for every user
        encoded = [user_id.encode() for user_id in self.user_ids]
        optional: dict[str, Any] = {} if self.periods is None else {"periods": self.periods}
        with atomic_open(path) as file:
            np.savez(
                file,
                rows=self.rows,
                offsets=self.offsets,
                id_bytes=np.frombuffer(b"".join(encoded), dtype=np.uint8),
                id_lengths=np.array([len(i) for i in encoded], dtype=np.int64),
                **optional,
            )

    @classmethod
    def load(cls, path: str | Path) -> "Histories":
        """Reads what `save` wrote.

        Raises:
            InputError: The file is missing, damaged or not of this form.
        """
        arrays = read_npz(path, _ARRAYS, "a histories file")
        with parse_errors(path, "a histories file"):
            blob, lengths = arrays["id_bytes"].tobytes(), arrays["id_lengths"]
            if (lengths < 0).any() or int(lengths.sum()) != len(blob):
                raise ValueError("id_lengths does not fit id_bytes")
            ends = np.cumsum(lengths).tolist()
            begins = [0, *ends[:-1]]
            ids = (blob[a:b].decode() for a, b in zip(begins, ends, strict=False))
            return cls(tuple(ids), arrays["rows"], arrays["offsets"], arrays.get("periods"))

    def _check_periods(self, periods: NDArray[np.int8]) -> None:
        """Refuses periods of other events, or that go back in time."""
        if periods.dtype != np.int8 or periods.shape != self.rows.shape:
            raise ValueError(
                f"periods must be int8 {self.rows.shape}, got {periods.dtype} {periods.shape}"
            )
        is_back = np.diff(periods) < 0
        inner = self.offsets[(self.offsets > 0) & (self.offsets < len(periods))]
        is_back[inner - 1] = False  # from one user to the next
        if is_back.any() or (len(periods) and not TRAIN <= periods.min() <= periods.max() <= TEST):
            raise ValueError(f"periods must rise from {TRAIN} to {TEST} within every history")
