"""The application as Ray Serve sees it: the owner, the replicas, and for a cluster an HTTP front.

`store-engine serve` deploys owner and replicas and listens itself. A cluster that is described by a
file, as KubeRay's RayService is, takes all of it, with Serve's own proxies before it:

    applications:
      - name: store_engine
        route_prefix: /
        import_path: store_engine.serving.cluster.application:build
        args: {run: /runs/current, replicas: 4, threads: 2, token_file: /token/token}
"""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from ray import serve

from store_engine.errors import InputError
from store_engine.serving.cluster.actors import EngineActor, OwnerActor
from store_engine.serving.cluster.backend import BATCHES_PER_REPLICA, RayBackend
from store_engine.serving.cluster.connection import device_of, gpus_of
from store_engine.serving.http.app import make_app
from store_engine.serving.http.metrics import Metrics
from store_engine.serving.settings import ServeSettings, read_token

APP, OWNER, ENGINES, HTTP = "store_engine", "owner", "engines", "http"


class Parts(NamedTuple):
    """What is bound to be deployed."""

    owner: serve.Application
    engines: serve.Application  # bound to the owner, which is deployed with them


def parts(run_dir: Path, settings: ServeSettings) -> Parts:
    """Describes the owner and the replicas of a run.

    Args:
        run_dir: A finished run. A link stays one: an owner that is started again begins where the
            link leads by then.
        settings: Of the server.
    """
    device = device_of(settings.device)
    own = replace(settings, device=device, token="")  # the token is none of their business
    gpus = gpus_of(device)
    owner = serve.deployment(
        name=OWNER,
        max_ongoing_requests=10_000,
        ray_actor_options={"num_cpus": 0, "num_gpus": gpus.owner},
    )(OwnerActor).bind(os.path.abspath(run_dir), own)
    engines = serve.deployment(
        name=ENGINES,
        num_replicas=settings.replicas,
        max_ongoing_requests=BATCHES_PER_REPLICA,
        health_check_period_s=1,
        graceful_shutdown_timeout_s=settings.drain_s,
        ray_actor_options={"num_cpus": settings.threads, "num_gpus": gpus.engine},
    )(EngineActor).bind(owner, own)
    return Parts(owner, engines)


def build(args: dict[str, Any]) -> serve.Application:
    """Makes the whole application of the arguments in a Serve config.

    Args:
        args: `run`, optionally `token_file`, and the fields of `ServeSettings` but host and port,
            which are Serve's.

    Raises:
        InputError: An argument is missing, unknown or out of its range.
    """
    given = dict(args)
    run_dir, token_file = given.pop("run", None), given.pop("token_file", None)
    if not isinstance(run_dir, str):
        raise InputError("args must name the run: run: /path/of/it")
    try:
        token = read_token(None if token_file is None else Path(token_file))
        settings = ServeSettings(**given, token=token)
    except TypeError as error:
        raise InputError(f"args: {error}") from error

    def front() -> Any:
        engines, owner = serve.get_deployment_handle(ENGINES), serve.get_deployment_handle(OWNER)
        metrics = Metrics()
        return make_app(RayBackend(engines, owner, settings, metrics), settings, metrics)

    bound = parts(Path(run_dir), settings)
    return serve.deployment(
        name=HTTP,
        max_ongoing_requests=settings.max_open,
        graceful_shutdown_timeout_s=settings.drain_s,
    )(serve.ingress(front)()).bind(bound.engines, bound.owner)
