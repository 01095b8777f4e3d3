"""What stands before every route: the token, the size of a body, and the counting of requests."""

import asyncio
import hmac
import time

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from store_engine.serving.http.errors import error_response
from store_engine.serving.http.metrics import Metrics
from store_engine.serving.settings import ServeSettings

_OPEN = ("/health", "/ready", "/docs", "/openapi.json")  # without a token
_QUESTIONS = ("/v1/recommend", "/v1/recommend/batch", "/v1/score", "/v1/explain")
_CHANGES = ("/v1/items", "/v1/items/update", "/v1/items/remove", "/v1/events")
_COUNTED = (*_OPEN, *_QUESTIONS, *_CHANGES, "/metrics")  # others are counted together


class Guard:
    """ASGI middleware; a body is read whole before a route sees the request.

    Args:
        app: What is guarded.
        settings: The token, the largest body, and how long a client may take to send it.
        metrics: Counts the requests.
    """

    def __init__(self, app: ASGIApp, settings: ServeSettings, metrics: Metrics) -> None:
        self._app, self._settings, self._metrics = app, settings, metrics
        self._token = settings.token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one request."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        began, status = time.perf_counter(), 500

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            headers = Headers(scope=scope)
            body: bytes | JSONResponse = b""
            if not self._is_allowed(scope["path"], headers):
                body = _unauthorized()
            elif scope["method"] not in ("GET", "HEAD", "OPTIONS"):
                body = await self._read(headers, receive)
                began = time.perf_counter()
            if isinstance(body, JSONResponse):
                return await body(scope, receive, counted)
            whole = {"type": "http.request", "body": body, "more_body": False}
            await self._app(scope, replay(whole, receive), counted)
        finally:
            self._count(scope, status, time.perf_counter() - began)

    def _is_allowed(self, path: str, headers: Headers) -> bool:
        if not self._token or path in _OPEN:
            return True
        kind, _, token = headers.get("authorization", "").partition(" ")
        # in a time that tells nothing of how many letters were right
        is_right = hmac.compare_digest(token.strip().encode("utf-8", "replace"), self._token)
        return kind.lower() == "bearer" and is_right

    async def _read(self, headers: Headers, receive: Receive) -> bytes | JSONResponse:
        """The whole body, or why it is refused."""
        limit, stated = self._settings.max_body_bytes, headers.get("content-length", "0")
        if stated.isdecimal() and int(stated[:20]) > limit:
            return _too_large(limit)
        body = bytearray()
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return error_response(400, "incomplete", "the client went away")
                    body += message.get("body", b"")
                    if len(body) > limit:
                        return _too_large(limit)
                    if not message.get("more_body", False):
                        return bytes(body)
        except TimeoutError:
            headers_out = {"Connection": "close"}
            return error_response(408, "too_slow", "the body did not come in time", headers_out)

    def _count(self, scope: Scope, status: int, seconds: float) -> None:
        # what strangers ask for must not become labels
        path = scope["path"] if scope["path"] in _COUNTED else "other"
        method = scope["method"] if scope["method"] in ("GET", "POST") else "other"
        self._metrics.requests.labels(method, path, str(status)).inc()
        self._metrics.request_seconds.labels(path).observe(seconds)


def _unauthorized() -> JSONResponse:
    message = "Authorization: Bearer TOKEN is missing or wrong"
    return error_response(401, "unauthorized", message, {"WWW-Authenticate": "Bearer"})


def _too_large(limit: int) -> JSONResponse:
    message = f"a body must be at most {limit:,} bytes on this server"
    return error_response(413, "too_large", message, {"Connection": "close"})


def replay(message: Message, receive: Receive) -> Receive:
    """Gives a message that was taken already, then what comes after it."""
    messages = iter([message])

    async def replayed() -> Message:
        return next(messages, None) or await receive()

    return replayed
