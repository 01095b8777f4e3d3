"""How long this machine takes to recommend, measured while the report is made."""

import functools
import itertools
from dataclasses import dataclass

import numpy as np
import torch

from store_engine.decoding.engine import Engine
from store_engine.evaluation.latency import draw_histories, time_in_turn
from store_engine.experiments.provenance import machine
from store_engine.report.loaded_run import LoadedRun

_BATCHES, _K = (1, 8, 64), 10
_HISTORIES = 10_000  # that are drawn
_SECONDS, _LEAST = 1.5, 5  # per batch size; calls


@dataclass(frozen=True)
class Timing:
    """Calls of one size.

    Args:
        batch: Histories of a call.
        calls: How many were timed.
        p50_ms: Median of a call.
        p95_ms: Its 95th percentile.
    """

    batch: int
    calls: int
    p50_ms: float
    p95_ms: float

    @property
    def per_second(self) -> float:
        """Histories per second, at the median."""
        return self.batch / self.p50_ms * 1000


@dataclass(frozen=True)
class Latency:
    """What was measured, and where.

    Args:
        timings: By batch size.
        machine: Its name.
        threads: Of PyTorch and the core.
        search: The search that was timed.
    """

    timings: list[Timing]
    machine: str
    threads: int
    search: str


def latency(loaded: LoadedRun, engine: Engine) -> Latency:
    """Times calls with other histories each time, as `draw_histories` gives them.

    Args:
        loaded: A finished run.
        engine: It, loaded without a prefix cache.
    """
    histories = itertools.cycle(draw_histories(loaded.run, _HISTORIES))

    def call(batch: int) -> None:
        engine.recommend_rows(list(itertools.islice(histories, batch)), _K)

    calls = {str(batch): functools.partial(call, batch) for batch in _BATCHES}
    spent = time_in_turn(calls, str(engine.device), _LEAST, _SECONDS)
    timings = []
    for batch, walls in zip(_BATCHES, spent.values(), strict=True):
        p50, p95 = np.quantile(walls, [0.5, 0.95]).tolist()
        timings.append(Timing(batch, len(walls), p50, p95))
    dtype = str(engine.model.text_embedding.weight.dtype).removeprefix("torch.")
    search = f"top {_K}, beam {max(engine.config.beam_width, _K)}, {dtype}, no prefix cache"
    name = machine(str(engine.device))
    return Latency(timings, name, torch.get_num_threads(), search)
