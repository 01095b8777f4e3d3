"""The HTTP surface: routes, limits, deadlines and errors in JSON. It knows no Ray.

Whatever answers the questions is a `Backend`: replicas behind Ray Serve (cluster/backend.py), or in
tests an engine of this process.
"""

import contextlib
import time
from collections.abc import Sequence
from typing import Annotated, Any, Protocol

from fastapi import Body, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

import store_engine
from store_engine.errors import InputError
from store_engine.serving.http.batcher import DeadlinePassed, Overloaded
from store_engine.serving.http.guard import Guard, error_response
from store_engine.serving.http.messages import (
    AddItemsRequest,
    AddItemsResponse,
    ChangeResponse,
    ErrorDetail,
    ErrorResponse,
    Item,
    RecommendRequest,
    RecommendResponse,
    RemoveItemsRequest,
    ScoredItem,
    ScoreRequest,
    ScoreResponse,
    StatusResponse,
)
from store_engine.serving.http.metrics import Metrics
from store_engine.serving.owner import NewItems
from store_engine.serving.service import Found, Query, Refused
from store_engine.serving.settings import ServeSettings


class Unavailable(Exception):
    """Nobody can answer now; the message says whom a client waits for."""


class Backend(Protocol):
    """What answers the questions of the clients."""

    async def answer(self, query: Query, deadline: float) -> Found | Refused:
        """Answers a query until a time of `time.monotonic`."""
        ...

    async def add_items(self, items: NewItems) -> AddItemsResponse:
        """Adds items; when it returns they are in the journal.

        Raises:
            InputError: An item cannot be added. None is then.
        """
        ...

    async def remove_items(self, item_ids: Sequence[str]) -> ChangeResponse:
        """Removes items; when it returns that is in the journal.

        Raises:
            InputError: An item cannot be removed. None is then.
        """
        ...

    async def status(self) -> StatusResponse:
        """Says how the replicas are."""
        ...


def make_app(backend: Backend, settings: ServeSettings, metrics: Metrics) -> FastAPI:
    """Makes the HTTP surface.

    Args:
        backend: Answers the questions.
        settings: Limits and the token.
        metrics: Counts the requests.
    """
    app = FastAPI(
        title="store_engine",
        version=store_engine.__version__,
        description="Recommendations from one language model, out of a live catalogue.",
        responses={status: {"model": ErrorResponse} for status in (401, 413, 422, 429, 503, 504)},
    )
    limits = _Limits(settings)
    _add_questions(app, backend, limits)
    _add_changes(app, backend, limits)
    _add_status(app, backend, metrics)
    _add_errors(app)
    app.add_middleware(Guard, settings=settings, metrics=metrics)
    return app


class _Limits:
    """What a request may ask for, and until when it is answered."""

    def __init__(self, settings: ServeSettings) -> None:
        self._settings = settings

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

    def query(self, asked: RecommendRequest) -> Query:
        """Makes a query of a request that keeps within the limits."""
        self.check("k", asked.k, self._settings.max_k)
        self.check("beam_width", asked.beam_width, self._settings.max_beam_width)
        if asked.beam_width is not None and asked.beam_width < asked.k:
            raise InputError(f"beam_width must be at least k, got {asked.beam_width} < {asked.k}")
        for name in ("history", "exclude", "allow"):
            self.check_ids(name, getattr(asked, name))
        return Query(
            tuple(asked.history),
            asked.k,
            asked.beam_width,
            asked.exclude_history,
            tuple(asked.exclude),
            None if asked.allow is None else tuple(asked.allow),
            asked.unknown == "skip",
        )


def _add_questions(app: FastAPI, backend: Backend, limits: _Limits) -> None:
    @app.post("/v1/recommend", tags=["questions"])
    async def recommend(asked: Annotated[RecommendRequest, Body()]) -> RecommendResponse:
        """The items most likely to follow a history."""
        found = _accepted(
            await backend.answer(limits.query(asked), limits.deadline(asked.timeout_ms))
        )
        items = [Item(item_id=i, score=score, logprob=p) for i, score, p in found.items]
        return RecommendResponse(
            items=items, run=found.run, sequence=found.sequence, unknown=found.unknown
        )

    @app.post("/v1/score", tags=["questions"])
    async def score(asked: Annotated[ScoreRequest, Body()]) -> ScoreResponse:
        """How likely given items are to follow a history."""
        limits.check_ids("history", asked.history)
        limits.check_ids("items", asked.items)
        query = Query.for_scores(asked.history, asked.items, asked.unknown == "skip")
        found = _accepted(await backend.answer(query, limits.deadline(asked.timeout_ms)))
        known = {item_id: (score, logprob) for item_id, score, logprob in found.items}
        pairs = ((item_id, known.get(item_id, (None, None))) for item_id in asked.items)
        items = [ScoredItem(item_id=i, score=s, logprob=p) for i, (s, p) in pairs]
        return ScoreResponse(
            items=items, run=found.run, sequence=found.sequence, unknown=found.unknown
        )


def _add_changes(app: FastAPI, backend: Backend, limits: _Limits) -> None:
    @app.post("/v1/items", tags=["catalogue"], status_code=201)
    async def add_items(asked: Annotated[AddItemsRequest, Body()]) -> AddItemsResponse:
        """Adds items by their text: all of them or none."""
        limits.check_ids("items", asked.items)
        return await backend.add_items([(item.item_id, item.text) for item in asked.items])

    @app.post("/v1/items/remove", tags=["catalogue"])
    async def remove_items(asked: Annotated[RemoveItemsRequest, Body()]) -> ChangeResponse:
        """Removes items: all of them or none. Histories may go on naming them."""
        limits.check_ids("item_ids", asked.item_ids)
        return await backend.remove_items(asked.item_ids)


def _add_status(app: FastAPI, backend: Backend, metrics: Metrics) -> None:
    @app.get("/health", tags=["status"])
    async def health() -> dict[str, str]:
        """The process is alive."""
        return {"status": "ok"}

    @app.get("/ready", tags=["status"])
    async def ready(response: Response) -> StatusResponse:
        """Whether questions can be answered: 200, else 503."""
        status = await backend.status()
        response.status_code = 200 if status.status == "ok" else 503
        return status

    @app.get("/metrics", tags=["status"])
    async def metrics_text() -> Response:
        """Counters for Prometheus."""
        with contextlib.suppress(Unavailable):  # the others are of use all the same
            _report(await backend.status(), metrics)
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _report(status: StatusResponse, metrics: Metrics) -> None:
    metrics.journal_sequence.set(status.sequence)
    metrics.sequence.clear()
    for one in status.replicas:
        metrics.sequence.labels(one.replica, one.run).set(one.sequence)


def _accepted(answer: Found | Refused) -> Found:
    if isinstance(answer, Refused):
        raise InputError(answer.message)
    return answer


def _add_errors(app: FastAPI) -> None:
    """Every error is JSON of one form, without what a stranger should not read."""

    async def invalid(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        details = [
            ErrorDetail(where=".".join(map(str, one["loc"])), message=one["msg"])
            for one in error.errors()[:20]
        ]
        return error_response(422, "invalid_request", "the request is not valid", details=details)

    async def refused(request: Request, error: Exception) -> JSONResponse:
        return error_response(422, "invalid_request", str(error))

    async def overloaded(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, Overloaded)
        again = {"Retry-After": str(error.retry_after_s)}
        return error_response(429, "overloaded", str(error), again)

    async def too_late(request: Request, error: Exception) -> JSONResponse:
        return error_response(504, "deadline_passed", "there was no answer in time")

    async def unavailable(request: Request, error: Exception) -> JSONResponse:
        return error_response(503, "unavailable", str(error), {"Retry-After": "1"})

    async def http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        kind = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "http_error")
        headers = dict(error.headers or {})
        return error_response(error.status_code, kind, str(error.detail), headers)

    async def broken(request: Request, error: Exception) -> JSONResponse:
        return error_response(500, "internal_error", "the server failed; its log says why")

    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(InputError, refused)
    app.add_exception_handler(Overloaded, overloaded)
    app.add_exception_handler(DeadlinePassed, too_late)
    app.add_exception_handler(Unavailable, unavailable)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(Exception, broken)
