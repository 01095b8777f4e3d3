"""The Ray cluster: the one that RAY_ADDRESS names, or one of this machine's own."""

import os
from typing import Any

import ray

from store_engine.errors import InputError


def connect(cores: int | None) -> None:
    """Connects to the cluster that RAY_ADDRESS names; without it, starts Ray on this machine.

    Args:
        cores: What Ray must have room for, if it starts here: it counts cores to share them out,
            and never finds one more. None: it must be there already.

    Raises:
        InputError: There is no such cluster, or Ray does not start.
    """
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "warning"}
    address = os.environ.get("RAY_ADDRESS")
    if address or cores is None:
        options["address"] = address or "auto"
    else:
        options |= {"include_dashboard": False, "num_cpus": max(os.cpu_count() or 1, cores)}
        options["object_store_memory"] = 1 << 28  # nothing here makes use of it
    try:
        ray.init(ignore_reinit_error=True, **options)
    except Exception as error:  # a start that took too long is one of no type of its own
        what = f"no cluster at {options['address']}" if "address" in options else "it did not start"
        raise InputError(f"Ray: {what}: {error}") from error


def gpus_of(device: str) -> int:
    """Returns how many GPUs an engine on this device takes of the cluster."""
    return 1 if device.startswith("cuda") else 0
