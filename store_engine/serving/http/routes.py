"""What clients may ask for, and whom it is passed on to.

Whatever answers the questions is a `Backend`: replicas behind Ray Serve (cluster/backend.py), or in
tests an engine of this process.
"""

import time
from collections.abc import Sequence
from typing import Annotated, Any, Protocol

from fastapi import Body, FastAPI

from store_engine.errors import InputError
from store_engine.live.user_histories import Unknown
from store_engine.serving.http.errors import INVALID
from store_engine.serving.http.messages import (
    AddEventsRequest,
    AddEventsResponse,
    ChangeResponse,
    Error,
    ErrorResponse,
    EventReason,
    ExplainRequest,
    ExplainResponse,
    Item,
    ItemsRequest,
    ItemsResponse,
    Recommend,
    RecommendBatchRequest,
    RecommendBatchResponse,
    RecommendRequest,
    RecommendResponse,
    RemoveItemsRequest,
    ScoredItem,
    ScoreRequest,
    ScoreResponse,
    StatusResponse,
)
from store_engine.serving.owner import Texts
from store_engine.serving.service import (
    Answer,
    Explained,
    Found,
    Query,
    Question,
    Refused,
    WhyQuery,
)
from store_engine.serving.settings import ServeSettings


class Backend(Protocol):
    """What answers the questions of the clients."""

    async def answer(self, questions: Sequence[Question], deadline: float) -> list[Answer]:
        """Answers questions until a time of `time.monotonic`."""
        ...

    async def add_items(self, items: Texts) -> ItemsResponse:
        """Adds items; when it returns they are in the journal.

        Raises:
            InputError: An item cannot be added. None is then.
        """
        ...

    async def update_items(self, items: Texts) -> ItemsResponse:
        """Replaces texts of items; when it returns that is in the journal.

        Raises:
            InputError: An item cannot be updated. None is then.
        """
        ...

    async def remove_items(self, item_ids: Sequence[str]) -> ChangeResponse:
        """Removes items; when it returns that is in the journal.

        Raises:
            InputError: An item cannot be removed. None is then.
        """
        ...

    async def add_events(
        self, events: Sequence[tuple[str, str, float]], unknown: Unknown
    ) -> AddEventsResponse:
        """Goes on with histories by user id, item id and time; see `Engine.add_events`.

        Raises:
            InputError: An item is unknown and not to be skipped. Nothing is added then.
        """
        ...

    async def status(self) -> StatusResponse:
        """Says how the replicas are."""
        ...


class Limits:
    """What a request may ask for, and until when it is answered.

    Args:
        settings: Of the server.
    """

    def __init__(self, settings: ServeSettings) -> None:
        self._settings = settings

    @property
    def max_requests(self) -> int:
        """Most requests of one batch of a client's."""
        return min(self._settings.max_requests, self._settings.max_waiting)

    def deadline(self, timeout_ms: int | None) -> float:
        """Until when a request is answered, by `time.monotonic`."""
        limit_ms = 1000 * self._settings.timeout_s
        # the least is taken first: a number of 400 digits cannot be divided
        wanted_ms = limit_ms if timeout_ms is None else min(timeout_ms, limit_ms)
        return time.monotonic() + wanted_ms / 1000

    def check(self, name: str, value: int | None, limit: int) -> None:
        """Refuses a number above its limit."""
        if value is not None and value > limit:
            raise InputError(f"{name} must be at most {limit:,} on this server, got {value:,}")

    def check_ids(self, name: str, values: Sequence[Any] | None) -> None:
        """Refuses a list that is too long."""
        if values is not None and len(values) > self._settings.max_ids:
            raise InputError(
                f"{name} must have at most {self._settings.max_ids:,} entries on this server, "
                f"got {len(values):,}"
            )

    def question(self, asked: Recommend | ScoreRequest | ExplainRequest) -> Question:
        """Makes the part that all questions have, of a request that keeps within the limits."""
        self.check_ids("history", asked.history)
        history = tuple(asked.history or ())
        return Question(history=history, user=asked.user, skips_unknown=asked.unknown == "skip")

    def query(self, asked: Recommend) -> Query:
        """Makes a query of a request that keeps within the limits."""
        self.check("k", asked.k, self._settings.max_k)
        self.check("beam_width", asked.beam_width, self._settings.max_beam_width)
        if asked.beam_width is not None and asked.beam_width < asked.k:
            raise InputError(f"beam_width must be at least k, got {asked.beam_width} < {asked.k}")
        for name in ("exclude", "allow"):
            self.check_ids(name, getattr(asked, name))
        return Query(
            **vars(self.question(asked)),
            k=asked.k,
            beam_width=asked.beam_width,
            exclude_history=asked.exclude_history,
            exclude=tuple(asked.exclude),
            allow=None if asked.allow is None else tuple(asked.allow),
        )

    def texts(self, asked: ItemsRequest) -> Texts:
        """Takes the texts of a request that keeps within the limits."""
        self.check_ids("items", asked.items)
        return [(item.item_id, item.text) for item in asked.items]


def add_questions(app: FastAPI, backend: Backend, limits: Limits) -> None:
    """Adds the routes that change nothing."""

    @app.post("/v1/recommend", tags=["questions"])
    async def recommend(asked: Annotated[RecommendRequest, Body()]) -> RecommendResponse:
        """The items most likely to follow a history."""
        found = await ask(asked, limits.query(asked))
        assert isinstance(found, Found)
        return _recommended(found)

    @app.post("/v1/recommend/batch", tags=["questions"])
    async def recommend_batch(
        asked: Annotated[RecommendBatchRequest, Body()],
    ) -> RecommendBatchResponse:
        """The items most likely to follow each of many histories."""
        limits.check("the number of requests", len(asked.requests), limits.max_requests)
        queries = [limits.query(one) for one in asked.requests]
        answers = await backend.answer(queries, limits.deadline(asked.timeout_ms))
        return RecommendBatchResponse(answers=[_recommended_or_not(one) for one in answers])

    @app.post("/v1/score", tags=["questions"])
    async def score(asked: Annotated[ScoreRequest, Body()]) -> ScoreResponse:
        """How likely given items are to follow a history."""
        limits.check_ids("items", asked.items)
        found = await ask(asked, Query.for_scores(limits.question(asked), asked.items))
        assert isinstance(found, Found)
        known = {item_id: (score, logprob) for item_id, score, logprob in found.items}
        pairs = ((item_id, known.get(item_id, (None, None))) for item_id in asked.items)
        items = [ScoredItem(item_id=i, score=s, logprob=p) for i, (s, p) in pairs]
        return ScoreResponse(items=items, **_provenance(found))

    @app.post("/v1/explain", tags=["questions"])
    async def explain(asked: Annotated[ExplainRequest, Body()]) -> ExplainResponse:
        """Why an item has its score. It costs a pass of the LLM for every event that is read."""
        question = WhyQuery(**vars(limits.question(asked)), item_id=asked.item_id)
        found = await ask(asked, question)
        assert isinstance(found, Explained)
        why = found.why
        reasons = zip(why.history, why.shares, strict=True)
        return ExplainResponse(
            item_id=why.item_id,
            sid=list(why.sid),
            score=why.score,
            logprob=why.logprob,
            evidence=why.evidence,
            history=[EventReason(**one._asdict(), share=share) for one, share in reasons],
            **_provenance(found),
        )

    async def ask(
        asked: RecommendRequest | ScoreRequest | ExplainRequest, question: Question
    ) -> Found | Explained:
        (answer,) = await backend.answer([question], limits.deadline(asked.timeout_ms))
        if isinstance(answer, Refused):
            raise InputError(answer.message)
        return answer


def _recommended(found: Found) -> RecommendResponse:
    items = [Item(item_id=i, score=score, logprob=p) for i, score, p in found.items]
    return RecommendResponse(items=items, **_provenance(found))


def _recommended_or_not(answer: Answer) -> RecommendResponse | ErrorResponse:
    if isinstance(answer, Refused):
        return ErrorResponse(error=Error(type=INVALID, message=answer.message))
    assert isinstance(answer, Found)
    return _recommended(answer)


def _provenance(found: Found | Explained) -> dict[str, Any]:
    return {"run": found.run, "sequence": found.sequence, "unknown": found.unknown}


def add_changes(app: FastAPI, backend: Backend, limits: Limits) -> None:
    """Adds the routes that change the catalogue and the histories."""

    @app.post("/v1/items", tags=["changes"], status_code=201)
    async def add_items(asked: Annotated[ItemsRequest, Body()]) -> ItemsResponse:
        """Adds items by their text: all of them or none."""
        return await backend.add_items(limits.texts(asked))

    @app.post("/v1/items/update", tags=["changes"])
    async def update_items(asked: Annotated[ItemsRequest, Body()]) -> ItemsResponse:
        """Replaces the texts of items, all of them or none; histories go on naming them."""
        return await backend.update_items(limits.texts(asked))

    @app.post("/v1/items/remove", tags=["changes"])
    async def remove_items(asked: Annotated[RemoveItemsRequest, Body()]) -> ChangeResponse:
        """Removes items: all of them or none. Histories may go on naming them."""
        limits.check_ids("item_ids", asked.item_ids)
        return await backend.remove_items(asked.item_ids)

    @app.post("/v1/events", tags=["changes"], status_code=201)
    async def add_events(asked: Annotated[AddEventsRequest, Body()]) -> AddEventsResponse:
        """Goes on with the histories of users, which questions may then name."""
        limits.check_ids("events", asked.events)
        events = [(one.user_id, one.item_id, one.time) for one in asked.events]
        return await backend.add_events(events, asked.unknown)
