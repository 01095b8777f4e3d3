"""Serves a run over HTTP, by replicas on Ray Serve.

store-engine serve runs/ml100k                                  # http://127.0.0.1:8000/docs
store-engine serve runs/ml100k --replicas 4 --threads 2
STORE_ENGINE_TOKEN=... store-engine serve runs/ml100k --host 0.0.0.0
RAY_ADDRESS=auto store-engine serve runs/ml100k --replicas 32   # on a Ray cluster
store-engine serve runs/newer --reload         # the server that runs goes on with this run

SIGTERM and Ctrl-C end the server when it has answered what it has begun. Items that are added or
removed over HTTP are in the run's journal and are there after a restart.
"""

import argparse
import dataclasses
from pathlib import Path

from store_engine.cli.main import (
    add_backend_argument,
    add_device_argument,
    add_run_argument,
    run_verb,
    warn,
)
from store_engine.waiting import waiting

_EPILOG = """\
A client proves itself by `Authorization: Bearer TOKEN`, where the environment's STORE_ENGINE_TOKEN
or --token-file holds a token of 16 letters or more. docs/serving.md tells of sizing, monitoring,
draining, reloading and security.
"""


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    return run_verb("serve", __doc__, _add_arguments, _serve, argv)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _EPILOG
    add_run_argument(parser)
    where = parser.add_argument_group("where")
    where.add_argument("--host", default="127.0.0.1", help="address to listen at (default: this)")
    where.add_argument("--port", type=int, default=8000, help="default 8000; 0 takes a free one")
    where.add_argument("--token-file", type=Path, metavar="FILE", help="holds the bearer token")
    size = parser.add_argument_group("size")
    size.add_argument("--replicas", type=int, default=1, help="engines (default 1)")
    size.add_argument("--threads", type=int, default=1, help="of each engine (default 1)")
    size.add_argument("--max-batch", type=int, default=128, help="requests at once (default 128)")
    size.add_argument(
        "--max-waiting", type=int, default=256, help="requests that wait (default 256); then 429"
    )
    limits = parser.add_argument_group("limits of a request")
    limits.add_argument(
        "--max-requests", type=int, default=256, help="of /v1/recommend/batch (default 256)"
    )
    limits.add_argument("--max-k", type=int, default=100, help="items wanted (default 100)")
    limits.add_argument("--max-beam-width", type=int, default=1000, help="default 1000")
    limits.add_argument("--max-ids", type=int, default=1000, help="of each list (default 1000)")
    limits.add_argument("--max-body-bytes", type=int, default=1 << 20, help="default 1048576")
    limits.add_argument("--timeout-s", type=float, default=10.0, help="default 10; then 504")
    parser.add_argument(
        "--drain-s", type=float, default=30.0, help="how long to go on when told to stop"
    )
    add_backend_argument(parser)
    add_device_argument(parser)
    parser.add_argument(
        "--reload", action="store_true", help="make the server that runs serve this run"
    )
    parser.add_argument(
        "--verbose", action="store_true", help="show all of Ray's own lines, not warnings alone"
    )


def _serve(args: argparse.Namespace) -> None:
    with waiting(f"checking {args.run}"):
        from store_engine.runs.run import load_run
        from store_engine.serving.cluster.environment import set_for_ray
        from store_engine.serving.settings import ServeSettings, read_token

        load_run(args.run)  # what is no run is refused before Ray starts
        names = [declared.name for declared in dataclasses.fields(ServeSettings)]
        given = {name: getattr(args, name) for name in names if hasattr(args, name)}
        settings = ServeSettings(**given, token=read_token(args.token_file))
        set_for_ray(is_verbose=args.verbose)
        from store_engine.serving.cluster.server import reload_run, serve_run

    if args.reload:
        reload_run(args.run, is_verbose=args.verbose)
        return
    if not settings.token and args.host not in ("127.0.0.1", "::1", "localhost"):
        warn(f"whoever reaches {args.host} may change the catalogue")
    serve_run(args.run, settings, is_verbose=args.verbose)
