"""Every error is JSON of one form, without what a stranger should not read."""

from collections.abc import Mapping, Sequence

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from store_engine.errors import InputError
from store_engine.serving.http.batcher import DeadlinePassed, Overloaded
from store_engine.serving.http.messages import Error, ErrorDetail, ErrorResponse

_KINDS = {404: "not_found", 405: "method_not_allowed"}
INVALID = "invalid_request"


class Unavailable(Exception):
    """Nobody can answer now; the message says whom a client waits for."""


TOLD = (InputError, Overloaded, DeadlinePassed, Unavailable)  # what a question may end with


def error_response(
    status: int,
    kind: str,
    message: str,
    headers: Mapping[str, str] | None = None,
    details: Sequence[ErrorDetail] = (),
) -> JSONResponse:
    """Makes an error in the form that all errors have.

    Args:
        status: The HTTP status.
        kind: One word, for programs.
        message: A sentence, for people.
        headers: More headers.
        details: What is wrong with parts of the request.
    """
    error = ErrorResponse(error=Error(type=kind, message=message, details=list(details)))
    return JSONResponse(error.model_dump(), status, headers)


def response_to(error: Exception) -> JSONResponse:
    """Makes the answer to a request that ended with an exception."""
    match error:
        case RequestValidationError():
            details = [
                ErrorDetail(where=".".join(map(str, one["loc"])), message=one["msg"])
                for one in error.errors()[:20]
            ]
            return error_response(422, INVALID, "the request is not valid", details=details)
        case InputError():
            return error_response(422, INVALID, str(error))
        case Overloaded():
            again = {"Retry-After": str(error.retry_after_s)}
            return error_response(429, "overloaded", str(error), again)
        case DeadlinePassed():
            return error_response(504, "deadline_passed", "there was no answer in time")
        case Unavailable():
            return error_response(503, "unavailable", str(error), {"Retry-After": "1"})
        case HTTPException():
            kind, headers = _KINDS.get(error.status_code, "http_error"), dict(error.headers or {})
            return error_response(error.status_code, kind, str(error.detail), headers)
    return error_response(500, "internal_error", "the server failed; its log says why")
