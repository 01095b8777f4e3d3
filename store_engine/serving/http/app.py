"""The HTTP surface: routes, limits, deadlines and errors in JSON. It knows no Ray."""

import contextlib

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp

import store_engine
from store_engine.serving.http.errors import TOLD, Unavailable, response_to
from store_engine.serving.http.guard import Guard
from store_engine.serving.http.messages import ErrorResponse, StatusResponse
from store_engine.serving.http.metrics import Metrics
from store_engine.serving.http.routes import (
    Backend,
    Limits,
    add_changes,
    add_questions,
)
from store_engine.serving.http.shortcut import Shortcut, endpoints_of
from store_engine.serving.settings import ServeSettings


def make_app(backend: Backend, settings: ServeSettings, metrics: Metrics) -> ASGIApp:
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
    limits = Limits(settings)
    add_questions(app, backend, limits)
    add_changes(app, backend, limits)
    _add_status(app, backend, metrics)
    _add_errors(app)
    return Guard(Shortcut(app, endpoints_of(app.routes)), settings, metrics)


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


def _add_errors(app: FastAPI) -> None:
    async def told(request: Request, error: Exception) -> JSONResponse:
        return response_to(error)

    for kind in (*TOLD, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, told)
