"""One engine that answers batches of mixed requests, and the number of the last change it has.

Every method is called by one thread at a time, so that an answer is of exactly the change that it
states.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from store_engine.data.catalog import unknown_item
from store_engine.decoding.engine import Engine, Recommendation
from store_engine.decoding.explanation import Explanation
from store_engine.errors import InputError, shown
from store_engine.serving.owner import BEFORE_ALL, Letter


@dataclass(frozen=True, kw_only=True)
class Question:
    """A request about a history, as plain values that can go to another process.

    Args:
        history: Item ids, oldest first.
        user: In place of a history, whose; None: the history is given.
        skips_unknown: Leave out ids that nobody has, instead of refusing the question.
    """

    history: tuple[str, ...] = ()
    user: str | None = None
    skips_unknown: bool = False


@dataclass(frozen=True, kw_only=True)
class Query(Question):
    """A request for items.

    Args:
        k: Items wanted.
        beam_width: Beams; None: the run's.
        exclude_history: Recommend no item of the history; None: the run's choice.
        exclude: Item ids not to recommend.
        allow: Recommend none but these; None: all.
    """

    k: int
    beam_width: int | None = None
    exclude_history: bool | None = None
    exclude: tuple[str, ...] = ()
    allow: tuple[str, ...] | None = None

    @classmethod
    def for_scores(cls, question: Question, items: Sequence[str]) -> "Query":
        """Asks for the scores of given items.

        A beam as wide as the items are many, among nothing but them, keeps all of them: their
        log-probabilities are exact.
        """
        return cls(
            **vars(question),
            k=len(items),
            beam_width=len(items),
            exclude_history=False,
            allow=tuple(items),
        )

    @property
    def shared(self) -> tuple[int, int | None, bool | None]:
        """What all queries of one call of the engine have in common."""
        return self.k, self.beam_width, self.exclude_history


@dataclass(frozen=True, kw_only=True)
class WhyQuery(Question):
    """A request for why an item has its score."""

    item_id: str


class Found(NamedTuple):
    """The answer to a query."""

    items: list[tuple[str, float, float]]  # id, score, log-probability; best first
    unknown: list[str]  # the user, or ids of the history, left out
    run: str  # its name
    sequence: int  # the last change of the catalogue that the answer knows


class Explained(NamedTuple):
    """The answer to a question why."""

    why: Explanation
    unknown: list[str]
    run: str
    sequence: int


class Refused(NamedTuple):
    """A question that the engine cannot answer, and why."""

    message: str


Answer = Found | Explained | Refused


class _Read(NamedTuple):
    """The history that a question is about."""

    item_ids: list[str]
    unknown: list[str]


_Asked = tuple[int, Query, _Read]  # place in the batch, query, its history


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

    def answer(self, questions: Sequence[Question]) -> list[Answer]:
        """Answers a batch. What is wrong with one question does not touch the others."""
        answers: list[Answer | None] = [None] * len(questions)
        alike: dict[tuple[int, int | None, bool | None], list[_Asked]] = {}
        for i, question in enumerate(questions):
            read = self._read(question)
            if isinstance(read, Refused):
                answers[i] = read
            elif isinstance(question, Query):
                alike.setdefault(question.shared, []).append((i, question, read))
            elif isinstance(question, WhyQuery):
                answers[i] = self._explain(question, read)
        for group in alike.values():
            self._answer_alike(group, answers)
        return [answer for answer in answers if answer is not None]

    def _read(self, question: Question) -> _Read | Refused:
        if question.user is not None:
            return self._read_user(question.user, question.skips_unknown)
        unknown = [one for one in question.history if not self._engine.knows(one)]
        if unknown and not question.skips_unknown:
            num_items = self._engine.trie.num_items
            return Refused(f"history: {unknown_item(unknown[0], (), num_items)}")
        return _Read(self._known(question.history), unknown)

    def _read_user(self, user: str, skips_unknown: bool) -> _Read | Refused:
        try:
            if self._engine.knows_user(user):
                return _Read(self._engine.history_of(user), [])
        except InputError:  # it names a file of this machine
            return Refused("user: this server cannot read the histories of its run; give one")
        return _Read([], [user]) if skips_unknown else Refused(f"unknown user id {shown(user)}")

    def _explain(self, question: WhyQuery, read: _Read) -> Explained | Refused:
        try:
            why = self._engine.explain(read.item_ids, question.item_id)
        except InputError as error:
            return Refused(str(error))
        return Explained(why, read.unknown, self.run, self.sequence)

    def _answer_alike(self, group: list[_Asked], answers: list[Answer | None]) -> None:
        """Answers queries that one call of the engine can answer."""
        first = group[0][1]
        try:
            found = self._engine.recommend(
                [read.item_ids for _, _, read in group],
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
        for (i, _, read), items in zip(group, found, strict=True):
            plain = [_plain(item) for item in items]
            answers[i] = Found(plain, read.unknown, self.run, self.sequence)

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
