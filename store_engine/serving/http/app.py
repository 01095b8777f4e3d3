"""The HTTP surface: routes, limits, deadlines and errors in JSON. It knows no Ray."""

import contextlib

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

import store_engine
from store_engine.errors import InputError
from store_engine.serving.http.batcher import DeadlinePassed, Overloaded
from store_engine.serving.http.guard import Guard, error_response
from store_engine.serving.http.messages import ErrorDetail, ErrorResponse, StatusResponse
from store_engine.serving.http.metrics import Metrics
from store_engine.serving.http.routes import (
    Backend,
    Limits,
    Unavailable,
    add_changes,
    add_questions,
)
from store_engine.serving.settings import ServeSettings


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
    limits = Limits(settings)
    add_questions(app, backend, limits)
    add_changes(app, backend, limits)
    _add_status(app, backend, metrics)
    _add_errors(app)
    app.add_middleware(Guard, settings=settings, metrics=metrics)
    return app


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
