"""Test users: what they had, what the run recommends to them, and what came next."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from store_engine.decoding.engine import Engine
from store_engine.report.codebook import level_name
from store_engine.report.loaded_run import LoadedRun

_DRAWN, _SHOWN, _HISTORY, K = 128, 3, 8, 10


@dataclass(frozen=True)
class Code:
    """One code of a path.

    Args:
        text: Its level's letter and its number.
        is_shared: All codes up to this one are those of the item that came next.
    """

    text: str
    is_shared: bool


@dataclass(frozen=True)
class Item:
    """An item of an example.

    Args:
        title: Its title.
        path: Its codes.
        score: What it is ranked by; None for what is not ranked.
        is_target: It is what came next.
    """

    title: str
    path: list[Code]
    score: float | None = None
    is_target: bool = False


@dataclass(frozen=True)
class Example:
    """A test user.

    Args:
        history: Titles of the last items, oldest first.
        num_events: Events of the whole history.
        ranked: What is recommended.
        target: What came next.
    """

    history: list[str]
    num_events: int
    ranked: list[Item]
    target: Item

    @property
    def place(self) -> int | None:
        """The rank of what came next, None if it is not among the recommended."""
        places = [rank for rank, item in enumerate(self.ranked, 1) if item.is_target]
        return places[0] if places else None


@dataclass(frozen=True)
class Examples:
    """Some hits and some misses.

    Args:
        shown: The examples: hits first.
        num_drawn: Users that were drawn at random.
        num_hits: Of them, how many have what came next in their top 10.
    """

    shown: list[Example]
    num_drawn: int
    num_hits: int


def examples(loaded: LoadedRun, engine: Engine) -> Examples:
    """Draws test users at random, and shows the first hits and the first misses of them.

    Args:
        loaded: A finished run.
        engine: It, loaded.
    """
    if not loaded.run.histories.num_users:  # an imported run
        return Examples([], 0, 0)
    test = loaded.run.split.test
    rng = np.random.default_rng(0)
    num_drawn = min(_DRAWN, len(test.targets))
    drawn = rng.choice(len(test.targets), num_drawn, replace=False)
    histories = [test.histories[user].astype(np.int64) for user in drawn]
    targets = test.targets[drawn]
    rows, scores = engine.recommend_rows(histories, K)
    is_hit = (rows == targets[:, None]).any(1)
    chosen = [*np.flatnonzero(is_hit)[:_SHOWN], *np.flatnonzero(~is_hit)[:_SHOWN]]
    shown = [
        _example(loaded, histories[one], int(targets[one]), (rows[one], scores[one]))
        for one in chosen
    ]
    return Examples(shown, num_drawn, int(is_hit.sum()))


def path_of(sid: Sequence[int], target: Sequence[int]) -> list[Code]:
    """Returns the codes of an item, marked as far as they are those of another."""
    codes, is_shared = [], True
    for level, (code, other) in enumerate(zip(sid, target, strict=True)):
        is_shared = is_shared and code == other
        codes.append(Code(f"{level_name(level)}{code}", is_shared))
    return codes


def _example(
    loaded: LoadedRun,
    history: NDArray[np.int64],
    target: int,
    found: tuple[NDArray[np.int64], NDArray[np.float32]],
) -> Example:
    sids, titles = loaded.run.sid_table.sids, loaded.titles
    wanted = sids[target].tolist()
    ranked = [
        Item(titles[row], path_of(sids[row].tolist(), wanted), float(score), row == target)
        for row, score in zip(*(part.tolist() for part in found), strict=True)
        if row >= 0
    ]
    last = [titles[row] for row in history[-_HISTORY:]]
    return Example(last, len(history), ranked, Item(titles[target], path_of(wanted, wanted)))
