"""What a server is told when it starts: where it listens, and what a request may ask of it."""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from store_engine.config.settings import check_ranges, setting
from store_engine.decoding.backends import BackendName
from store_engine.errors import InputError
from store_engine.files.regular import read_regular

TOKEN_VARIABLE = "STORE_ENGINE_TOKEN"  # not on the command line, which every process can read
DEVICES = ("auto", "cpu", "cuda")
_TOKEN = re.compile(r"[!-~]{16,4096}")


@dataclass(frozen=True)
class ServeSettings:
    """Settings of a server.

    Args:
        host: Address to listen at; 127.0.0.1 is seen by this machine alone.
        port: Its port; 0 takes a free one.
        replicas: Engines, each with the model and one batch at a time.
        threads: Of each engine.
        device: Where the engines compute: "cpu", "cuda" (a GPU each, whichever Ray gives them), or
            "auto": cuda where the cluster has a GPU.
        backend: Of the beam search, as `Engine.load` takes it.
        max_batch: Requests that an engine answers at once.
        max_waiting: Requests that wait for an engine; more are answered 429.
        max_body_bytes: Largest body of a request.
        max_requests: Most requests that a client may put into one; no more than `max_waiting`.
        max_k: Most items that a request may want.
        max_beam_width: Widest beam that a request may ask for.
        max_ids: Most item ids in each list of a request, and most items of a change.
        timeout_s: A request is answered within this time, or with 504.
        visible_s: How long a change waits for all replicas to have it before it is acknowledged.
        drain_s: How long requests under way may take when the server stops.
        token: What `Authorization: Bearer ...` must hold; empty: nothing.

    Raises:
        InputError: A number is out of its range, or the token is too weak.
    """

    host: str = "127.0.0.1"
    port: int = setting(8000, 0, 65535)
    replicas: int = setting(1, 1, 1000)
    threads: int = setting(1, 1, 1024)
    device: str = "auto"
    backend: BackendName = "auto"
    max_batch: int = setting(128, 1, 4096)
    max_waiting: int = setting(256, 1, 100_000)
    max_body_bytes: int = setting(1 << 20, 1 << 10, 1 << 30)
    max_requests: int = setting(256, 1, 100_000)
    max_k: int = setting(100, 1, 100_000)
    max_beam_width: int = setting(1000, 1, 100_000)
    max_ids: int = setting(1000, 1, 1_000_000)
    timeout_s: float = setting(10.0, 0.01, 3600.0)
    visible_s: float = setting(1.0, 0.0, 60.0)
    drain_s: float = setting(30.0, 0.0, 3600.0)
    token: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        check_ranges(self, "serve")
        if self.device not in DEVICES:
            raise InputError(f"serve.device must be one of {DEVICES}, got {self.device!r}")
        if self.token and not _TOKEN.fullmatch(self.token):
            raise InputError("the token must be 16 to 4096 letters, digits and signs of ASCII")

    @property
    def max_open(self) -> int:
        """Requests that may be open at once; 429 is said before there are so many."""
        return 4 * self.max_waiting + 100


def read_token(path: Path | None) -> str:
    """Reads the bearer token of a server.

    Args:
        path: A file that holds it, as Kubernetes mounts a secret; None: the environment's
            STORE_ENGINE_TOKEN, if it is set.

    Raises:
        InputError: The file cannot be read or is empty.
    """
    if path is None:
        return os.environ.get(TOKEN_VARIABLE, "")
    token = read_regular(path, 1 << 13).decode("ascii", "replace").strip()
    if not token:
        raise InputError(f"{path}: must hold a token, is empty")
    return token
