"""The short way of a question that is right: bytes, message, endpoint, message, bytes.

FastAPI takes several times longer for the same, by dependencies, streams and copies that no
endpoint of ours makes use of. It declares the endpoints and documents them; whatever is not plainly
right takes its way, so that there is one place that says what is wrong.
"""

import typing
from collections.abc import Awaitable, Callable, Iterable
from typing import NamedTuple

from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from store_engine.serving.http.errors import TOLD, response_to
from store_engine.serving.http.guard import replay


class Endpoint(NamedTuple):
    """What a path is answered by, a function of one message."""

    act: Callable[[BaseModel], Awaitable[BaseModel]]
    asked: type[BaseModel]
    status: int


def endpoints_of(routes: Iterable[BaseRoute]) -> dict[str, Endpoint]:
    """Finds the endpoints that are posted one message and return one, by path."""
    found = {}
    for route in routes:
        if isinstance(route, APIRoute) and route.methods == {"POST"}:
            *asked, _ = typing.get_type_hints(route.endpoint).values()
            if len(asked) == 1 and issubclass(asked[0], BaseModel):
                found[route.path] = Endpoint(route.endpoint, asked[0], route.status_code or 200)
    return found


class Shortcut:
    """ASGI middleware behind a `Guard`, which gives a body in one piece.

    Args:
        app: The long way.
        endpoints: By path.
    """

    def __init__(self, app: ASGIApp, endpoints: dict[str, Endpoint]) -> None:
        self._app, self._endpoints = app, endpoints

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one request."""
        endpoint = self._endpoints.get(scope["path"]) if scope["type"] == "http" else None
        is_json = (b"content-type", b"application/json") in scope.get("headers", ())
        if endpoint is None or scope["method"] != "POST" or not is_json:
            return await self._app(scope, receive, send)
        message = await receive()
        try:
            asked = endpoint.asked.model_validate_json(message["body"])
        except ValidationError:
            return await self._app(scope, replay(message, receive), send)
        try:
            answer = await endpoint.act(asked)
        except Exception as error:
            await response_to(error)(scope, receive, send)
            if isinstance(error, TOLD):
                return
            raise  # for the server's log
        body = answer.__pydantic_serializer__.to_json(answer)
        response = Response(body, endpoint.status, media_type="application/json")
        await response(scope, receive, send)
