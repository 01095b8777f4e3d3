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
        InputError: There is no such cluster.
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
    except (ConnectionError, RuntimeError) as error:
        raise InputError(f"no Ray cluster at {options.get('address')}: {error}") from error
