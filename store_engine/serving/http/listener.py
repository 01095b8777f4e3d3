"""Listening: uvicorn's settings, the address, and the end by a signal."""

import asyncio
import contextlib
import signal
import socket
import sys
from collections.abc import Iterator

import uvicorn

from store_engine.errors import InputError
from store_engine.serving.settings import ServeSettings


def http_config(settings: ServeSettings) -> uvicorn.Config:
    """Makes the settings of the HTTP server, whose app is still to be set."""
    return uvicorn.Config(
        app="",
        host=settings.host,
        port=settings.port,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=max(1, round(settings.drain_s)),
        limit_concurrency=settings.max_open,
        h11_max_incomplete_event_size=1 << 14,
    )


def bind(config: uvicorn.Config) -> socket.socket:
    """Takes the address; nobody can connect before `listen`.

    Raises:
        InputError: It is taken, or there is no such address.
    """
    try:
        listener = config.bind_socket()
    except SystemExit as error:
        raise InputError(f"{config.host}:{config.port}: cannot be listened at") from error
    # asyncio sets it where a socket names TCP, which uvicorn's does not; without it the body of an
    # answer waits 40 ms for the client to acknowledge the head
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def run(config: uvicorn.Config, listener: socket.socket) -> None:
    """Runs `listen` in an event loop, uvloop's where it is installed."""
    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(listen(config, listener))


async def listen(config: uvicorn.Config, listener: socket.socket) -> None:
    """Answers HTTP until SIGTERM or SIGINT, and then what was begun by then."""
    server = _Server(config)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, server.handle_exit, number, None)
    await server.serve([listener])


class _Server(uvicorn.Server):
    """Says where it listens; ends well when told to, without the signal's usual end after that."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begins to listen, and only then says so."""
        await super().startup(sockets)
        for one in sockets or ():
            host, port = one.getsockname()[:2]
            where = f"http://{host}:{port}"
            print(
                f"serving at {where}, documented at {where}/docs; Ctrl-C stops it",
                file=sys.stderr,
                flush=True,
            )

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves signals to the event loop."""
        yield
