"""Starting and stopping: Ray Serve's replicas, and the HTTP server before them.

The HTTP server is a process of its own and not one of Serve's proxies: it gathers requests into
batches before they travel, so that what a request costs on its way is shared by the batch.
"""

import os
import sys
import time
from pathlib import Path
from typing import Any

import ray
from ray import serve

from store_engine.errors import InputError
from store_engine.serving.cluster.application import APP, ENGINES, OWNER, parts
from store_engine.serving.cluster.backend import RayBackend
from store_engine.serving.cluster.connection import check_gpus, connect, device_of, variables
from store_engine.serving.http.app import make_app
from store_engine.serving.http.listener import bind, http_config, run
from store_engine.serving.http.metrics import Metrics
from store_engine.serving.service import Refused
from store_engine.serving.settings import ServeSettings
from store_engine.waiting import waiting

_LOOK_S = 0.2  # between two looks at how many replicas are ready


def serve_run(run_dir: Path, settings: ServeSettings, *, is_verbose: bool = False) -> None:
    """Serves a run until the process is told to stop; then answers what it has begun.

    Ray starts on this machine, unless RAY_ADDRESS names a cluster.

    Args:
        run_dir: A finished run; on a cluster every node must see it under this path.
        settings: Of the server.
        is_verbose: Show what Ray says, not its warnings alone.

    Raises:
        InputError: The run cannot be served, or the port is taken.
    """
    config = http_config(settings)
    listener = bind(config)  # first, because a port that is taken should cost no start of engines
    connect(settings.replicas * settings.threads + 1, is_verbose=is_verbose)
    try:
        engines, owner = deploy(run_dir, settings, is_verbose=is_verbose)
        metrics = Metrics()
        config.app = make_app(RayBackend(engines, owner, settings, metrics), settings, metrics)
        print(f"its Ray cluster: {variables()}", file=sys.stderr, flush=True)
        run(config, listener)
    finally:
        with waiting("stopping"):
            serve.delete(APP, _blocking=True)
            if not os.environ.get("RAY_ADDRESS"):
                serve.shutdown()
            ray.shutdown()


def deploy(run_dir: Path, settings: ServeSettings, *, is_verbose: bool = False) -> tuple[Any, Any]:
    """Starts the owner and the replicas, and waits until they can answer.

    Args:
        run_dir: As for `serve_run`.
        settings: Of the server.
        is_verbose: Let the replicas say more than warnings.

    Returns:
        Serve's handles of the replicas and of the owner.

    Raises:
        InputError: They cannot start, or this machine has fewer GPUs than there are replicas.
    """
    quiet = {"enable_access_log": False, "log_level": "INFO" if is_verbose else "WARNING"}
    with waiting("starting Ray Serve"):
        serve.start(proxy_location="Disabled", logging_config=quiet)
    if not os.environ.get("RAY_ADDRESS") and device_of(settings.device) == "cuda":
        check_gpus(settings.replicas)
    app = parts(run_dir, settings).engines
    target = serve.RunTarget(app, name=APP, route_prefix=None, logging_config=quiet)
    with waiting(f"loading {run_dir}") as tell:
        (handle,) = serve.run_many([target], wait_for_applications_running=False)
        while (status := _status()) is None or status.status != "RUNNING":
            if status is not None and status.status == "DEPLOY_FAILED":
                raise InputError(f"{run_dir}: cannot be served: {_reason(status)}")
            engines = None if status is None else status.deployments.get(ENGINES)
            num_ready = 0 if engines is None else engines.replica_states.get("RUNNING", 0)
            tell(f"{num_ready} of {settings.replicas} replica(s) are ready")
            time.sleep(_LOOK_S)
    return handle, serve.get_deployment_handle(OWNER, APP)


def reload_run(run_dir: Path, *, is_verbose: bool = False) -> None:
    """Makes a server that runs serve another run; returns when the change has begun.

    Args:
        run_dir: As for `serve_run`.
        is_verbose: Show what Ray says, not its warnings alone.

    Raises:
        InputError: There is no server, or it cannot serve that run.
    """
    connect(None, is_verbose=is_verbose)
    try:
        owner = serve.get_deployment_handle(OWNER, APP)
        with waiting(f"the server's owner takes over {run_dir}"):
            refused: Refused | None = owner.reload.remote(str(run_dir.resolve())).result()
    except Exception as error:
        raise InputError(f"no server answers: {error}") from error
    finally:
        ray.shutdown()
    if refused is not None:
        raise InputError(refused.message)


def _status() -> Any:
    """How the application is, None before Ray Serve knows it."""
    return serve.status().applications.get(APP)


def _reason(status: Any) -> str:
    """Why the application did not start, in the words of whoever failed."""
    messages = [status.message, *(one.message for one in status.deployments.values())]
    lines = [line for message in messages for line in message.splitlines()]
    found = [line for line in lines if "InputError" in line]
    return (found or [line for line in lines if line.strip()] or ["no reason was given"])[-1]
