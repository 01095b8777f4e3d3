"""Starting and stopping: Ray Serve's replicas, and the HTTP server before them.

The HTTP server is a process of its own and not one of Serve's proxies: it gathers requests into
batches before they travel, so that what a request costs on its way is shared by the batch.
"""

import os
import sys
from pathlib import Path
from typing import Any

import ray
from ray import serve

from store_engine.errors import InputError
from store_engine.serving.cluster.application import APP, OWNER, parts
from store_engine.serving.cluster.backend import RayBackend
from store_engine.serving.cluster.connection import check_gpus, connect, device_of, variables
from store_engine.serving.http.app import make_app
from store_engine.serving.http.listener import bind, http_config, run
from store_engine.serving.http.metrics import Metrics
from store_engine.serving.service import Refused
from store_engine.serving.settings import ServeSettings

_QUIET = {"enable_access_log": False, "log_level": "WARNING"}


def serve_run(run_dir: Path, settings: ServeSettings) -> None:
    """Serves a run until the process is told to stop; then answers what it has begun.

    Ray starts on this machine, unless RAY_ADDRESS names a cluster.

    Args:
        run_dir: A finished run; on a cluster every node must see it under this path.
        settings: Of the server.

    Raises:
        InputError: The run cannot be served, or the port is taken.
    """
    config = http_config(settings)
    listener = bind(config)  # first, because a port that is taken should cost no start of engines
    connect(settings.replicas * settings.threads + 1)
    try:
        engines, owner = deploy(run_dir, settings)
        metrics = Metrics()
        config.app = make_app(RayBackend(engines, owner, settings, metrics), settings, metrics)
        print(f"its Ray cluster: {variables()}", file=sys.stderr, flush=True)
        run(config, listener)
    finally:
        serve.delete(APP, _blocking=True)
        if not os.environ.get("RAY_ADDRESS"):
            serve.shutdown()
        ray.shutdown()


def deploy(run_dir: Path, settings: ServeSettings) -> tuple[Any, Any]:
    """Starts the owner and the replicas, and waits until they can answer.

    Returns:
        Serve's handles of the replicas and of the owner.

    Raises:
        InputError: They cannot start, or this machine has fewer GPUs than there are replicas.
    """
    serve.start(proxy_location="Disabled", logging_config=_QUIET)
    if not os.environ.get("RAY_ADDRESS") and device_of(settings.device) == "cuda":
        check_gpus(settings.replicas)
    app = parts(run_dir, settings).engines
    try:
        handle = serve.run(app, name=APP, route_prefix=None, logging_config=_QUIET)
    except RuntimeError as error:
        raise InputError(f"{run_dir}: cannot be served: {_reason()}") from error
    return handle, serve.get_deployment_handle(OWNER, APP)


def reload_run(run_dir: Path) -> None:
    """Makes a server that runs serve another run; returns when the change has begun.

    Raises:
        InputError: There is no server, or it cannot serve that run.
    """
    connect(None)
    try:
        owner = serve.get_deployment_handle(OWNER, APP)
        refused: Refused | None = owner.reload.remote(str(run_dir.resolve())).result()
    except Exception as error:
        raise InputError(f"no server answers: {error}") from error
    finally:
        ray.shutdown()
    if refused is not None:
        raise InputError(refused.message)


def _reason() -> str:
    """Why the application did not start, in the words of whoever failed."""
    status = serve.status().applications.get(APP)
    if status is None:
        return "Ray says nothing of why"
    messages = [status.message, *(one.message for one in status.deployments.values())]
    lines = [line for message in messages for line in message.splitlines()]
    found = [line for line in lines if "InputError" in line]
    return (found or [line for line in lines if line.strip()] or ["no reason was given"])[-1]
