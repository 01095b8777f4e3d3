"""Batch recommendation on a Ray cluster: Ray Data hands the shards to actors with an engine each.

The folders must be seen by every node under the same path. RAY_ADDRESS says which cluster; without
one, Ray starts on this machine.
"""

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from store_engine.errors import InputError
from store_engine.extras import needs
from store_engine.serving.batch.outputs import Origin
from store_engine.serving.batch.recommender import (
    BatchOptions,
    BatchRecommender,
    EngineChoice,
    Served,
    ServedShard,
    Work,
)
from store_engine.serving.batch.shards import Shard
from store_engine.serving.cluster.environment import set_for_ray


def serve_with_ray(
    choice: EngineChoice,
    options: BatchOptions,
    work: Work,
    threads: int,
) -> Iterator[ServedShard]:
    """Serves shards on a Ray cluster, by as many actors as it has room for.

    Args:
        choice: The engine of every actor.
        options: The same for every user.
        work: Shards and what their outputs are made from.
        threads: Of each actor.

    Yields:
        Each shard as soon as its output is written or its input refused.

    Raises:
        InputError: Ray is not installed.
    """
    set_for_ray()
    with needs("--ray"):
        import ray
        import ray.data

        from store_engine.serving.cluster.connection import connect, device_of, gpus_of
    if not work:
        return
    connect(threads)
    ray.data.DataContext.get_current().enable_progress_bars = False
    _quieten()
    device = device_of(choice.device)
    room = int(ray.cluster_resources().get("CPU", 1)) // threads
    most = max(1, min(room, len(work)))
    rows = [
        {"number": i, "source": str(shard.source.resolve()), "output": str(shard.output.resolve())}
        for i, (shard, _) in enumerate(work)
    ]
    found = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        _Actor,
        fn_constructor_args=(
            replace(choice, run=choice.run.resolve(), device=device),
            options,
            [origin for _, origin in work],
            threads,
        ),
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=most),
        num_cpus=threads,
        num_gpus=gpus_of(device).engine,
    )
    for row in found.iter_rows():
        served = None if row["problem"] else Served(row["num_users"], row["num_unknown"])
        yield ServedShard(work[row["number"]][0], served, row["problem"])


def _quieten() -> None:
    """Leaves Ray Data's lines to its own files, but for warnings and errors."""
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):  # not that of its files
            handler.setLevel(logging.WARNING)
            handler.addFilter(_is_problem)


def _is_problem(record: logging.LogRecord) -> bool:
    """Whether a warning is one; that it shows no bars is our choice."""
    return not str(record.msg).startswith("Progress bars disabled")


class _Actor:
    """Serves one shard after another."""

    def __init__(
        self, choice: EngineChoice, options: BatchOptions, origins: list[Origin], threads: int
    ) -> None:
        import torch

        torch.set_num_threads(threads)
        self._recommender, self._origins = BatchRecommender(choice, options), origins

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Serves a shard; one that is refused must not end the others."""
        shard = Shard(Path(row["source"]), Path(row["output"]))
        result = {"number": row["number"], "num_users": 0, "num_unknown": 0, "problem": ""}
        try:
            served = self._recommender.serve_shard(
                shard, self._origins[row["number"]], lambda done, total: None
            )
            return result | served._asdict()
        except InputError as error:
            return result | {"problem": str(error)}
        except OSError as error:
            return result | {"problem": f"{shard.output}: {error.strerror or error}"}
