"""The Ray cluster: the one that RAY_ADDRESS names, or one of this machine's own."""

import logging
import os
from typing import Any, NamedTuple

import ray

from store_engine.errors import InputError
from store_engine.waiting import waiting

_TOKENS = "ray._private.authentication.authentication_token_setup"  # a logger


def connect(cores: int | None, *, is_verbose: bool = False) -> None:
    """Connects to the cluster that RAY_ADDRESS names; without it, starts Ray on this machine.

    Says so on stderr.

    Args:
        cores: What Ray must have room for, if it starts here: it counts cores to share them out,
            and never finds one more. None: it must be there already.
        is_verbose: Show Ray's own lines and those of its processes, not its warnings alone.

    Raises:
        InputError: There is no such cluster, or Ray does not start.
    """
    level = "info" if is_verbose else "warning"
    options: dict[str, Any] = {"log_to_driver": is_verbose, "logging_level": level}
    if not is_verbose:
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        logging.getLogger(_TOKENS).addFilter(_is_problem)
    address = os.environ.get("RAY_ADDRESS")
    if address or cores is None:
        options["address"] = address or "auto"
    else:
        options |= {"include_dashboard": False, "num_cpus": max(os.cpu_count() or 1, cores)}
        options["object_store_memory"] = 1 << 28  # nothing here makes use of it
    is_new = "address" not in options
    what = "starting Ray" if is_new else f"connecting to Ray at {options['address']}"
    try:
        with waiting(what):
            ray.init(ignore_reinit_error=True, **options)
    except Exception as error:  # a start that took too long is one of no type of its own
        fault = "it did not start" if is_new else f"no cluster at {options['address']}"
        raise InputError(f"Ray: {fault}: {error}") from error


def _is_problem(record: logging.LogRecord) -> bool:
    """Whether a warning about tokens is one: that Ray's processes have them is as it should be."""
    return not str(record.msg).startswith("Token authentication is enabled")


def variables() -> str:
    """Returns the variables by which another process of this machine connects to the cluster.

    Without them it takes the one that it finds, which may be of another server.
    """
    address, mode = ray.get_runtime_context().gcs_address, os.environ.get("RAY_AUTH_MODE")
    return f"RAY_ADDRESS={address}" + (f" RAY_AUTH_MODE={mode}" if mode else "")


class Gpus(NamedTuple):
    """Shares of a GPU.

    An actor that takes none may be placed on a node without one; on a node with several it sees
    all of them or none, as Ray's version and settings have it, and never its own.
    """

    engine: float  # more than half: no two replicas share one
    owner: float  # what a replica leaves of it: as many GPUs as replicas will do


def device_of(device: str) -> str:
    """Returns where engines compute: what was asked for, or for "auto" what the cluster has."""
    if device != "auto":
        return device
    return "cuda" if ray.is_initialized() and ray.cluster_resources().get("GPU", 0) else "cpu"


def gpus_of(device: str) -> Gpus:
    """Returns what actors on a device take of the cluster's GPUs."""
    return Gpus(0.9, 0.1) if device == "cuda" else Gpus(0, 0)


def check_gpus(replicas: int) -> None:
    """Refuses more replicas on GPUs than this machine, which is the whole cluster, has room for.

    Raises:
        InputError: There are fewer GPUs.
    """
    num_gpus = int(ray.cluster_resources().get("GPU", 0))
    if num_gpus < replicas:
        raise InputError(
            f"serve.replicas on cuda must be at most the number of GPUs, {num_gpus}, got {replicas}"
        )
