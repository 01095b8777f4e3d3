"""One engine that answers batches of mixed requests, and the number of the last change it has.

Every method is called by one thread at a time, so that an answer is of exactly the change that it
states.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from store_engine.data.catalog import unknown_item
from store_engine.decoding.engine import Engine, Recommendation
from store_engine.errors import InputError
from store_engine.serving.owner import BEFORE_ALL, Letter


@dataclass(frozen=True)
class Query:
    """A request for items, as plain values that can go to another process.

    Args:
        history: Item ids, oldest first.
        k: Items wanted.
        beam_width: Beams; None: the run's.
        exclude_history: Recommend no item of the history; None: the run's choice.
        exclude: Item ids not to recommend.
        allow: Recommend none but these; None: all.
        skips_unknown: Leave out ids of the history that no item has, instead of refusing it.
    """

    history: tuple[str, ...]
    k: int
    beam_width: int | None = None
    exclude_history: bool | None = None
    exclude: tuple[str, ...] = ()
    allow: tuple[str, ...] | None = None
    skips_unknown: bool = False

    @classmethod
    def for_scores(
        cls, history: Sequence[str], items: Sequence[str], skips_unknown: bool
    ) -> "Query":
        """Asks for the scores of given items.

        A beam as wide as the items are many, among nothing but them, keeps all of them: their
        log-probabilities are exact.
        """
        return cls(
            tuple(history),
            len(items),
            beam_width=len(items),
            exclude_history=False,
            allow=tuple(items),
            skips_unknown=skips_unknown,
        )

    @property
    def shared(self) -> tuple[int, int | None, bool | None]:
        """What all queries of one call of the engine have in common."""
        return self.k, self.beam_width, self.exclude_history


class Found(NamedTuple):
    """The answer to a query."""

    items: list[tuple[str, float, float]]  # id, score, log-probability; best first
    unknown: list[str]  # ids of the history that were left out
    run: str  # its name
    sequence: int  # the last change of the catalogue that the answer knows


class Refused(NamedTuple):
    """A query that the engine cannot answer, and why."""

    message: str


_Asked = tuple[int, Query, list[str]]  # place in the batch, query, unknown ids of its history


class EngineService:
    """An engine with a place in the order of the changes.

    Args:
        engine: The engine.
        run: The name of its run.
        sequence: Number of the last change that the engine has; BEFORE_ALL: it is as the run's
            files are.
    """

    def __init__(self, engine: Engine, run: str, sequence: int = BEFORE_ALL) -> None:
        self._engine, self.run, self.sequence = engine, run, sequence

    def answer(self, queries: Sequence[Query]) -> list[Found | Refused]:
        """Answers a batch. What is wrong with one query does not touch the others."""
        answers: list[Found | Refused | None] = [None] * len(queries)
        alike: dict[tuple[int, int | None, bool | None], list[_Asked]] = {}
        for i, query in enumerate(queries):
            unknown = [one for one in query.history if not self._engine.knows(one)]
            if unknown and not query.skips_unknown:
                num_items = self._engine.trie.num_items
                answers[i] = Refused(f"history: {unknown_item(unknown[0], (), num_items)}")
            else:
                alike.setdefault(query.shared, []).append((i, query, unknown))
        for group in alike.values():
            self._answer_alike(group, answers)
        return [answer for answer in answers if answer is not None]

    def _answer_alike(self, group: list[_Asked], answers: list[Found | Refused | None]) -> None:
        """Answers queries that one call of the engine can answer."""
        first = group[0][1]
        try:
            found = self._engine.recommend(
                [self._known(query.history) for _, query, _ in group],
                first.k,
                beam_width=first.beam_width,
                exclude_history=first.exclude_history,
                allow=[self._allowed(n, query) for n, (_, query, _) in enumerate(group)],
                exclude=[self._known(query.exclude) for _, query, _ in group],
            )
        except InputError as error:
            for i, _, _ in group:
                answers[i] = Refused(str(error))
            return
        for (i, _, unknown), items in zip(group, found, strict=True):
            answers[i] = Found([_plain(item) for item in items], unknown, self.run, self.sequence)

    def _known(self, item_ids: Iterable[str]) -> list[str]:
        return [item_id for item_id in item_ids if self._engine.knows(item_id)]

    def _allowed(self, number: int, query: Query) -> str | None:
        """The name of a set for what a query allows; a later query of this number takes it."""
        if query.allow is None:
            return None
        self._engine.define(f"request {number}", self._known(query.allow))
        return f'"request {number}"'

    def apply(self, letter: Letter) -> None:
        """Makes changes that come right after those that the engine has.

        Raises:
            ValueError: They come after others.
            InputError: A change does not fit the engine's items.
        """
        if letter.after != self.sequence:
            raise ValueError(f"changes after {letter.after} came to an engine at {self.sequence}")
        self._engine.apply(letter.unpack())
        self.sequence = letter.upto


def _plain(item: Recommendation) -> tuple[str, float, float]:
    return item.item_id, item.score, item.logprob
