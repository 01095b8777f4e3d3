"""How long this machine takes to recommend, measured while the report is made."""

import time
from dataclasses import dataclass

import numpy as np
import torch

from store_engine.data.split import leave_one_out
from store_engine.decoding.engine import Engine
from store_engine.experiments.provenance import machine
from store_engine.report.loaded_run import LoadedRun

_BATCHES, _K = (1, 8, 64), 10
_SECONDS, _LEAST, _MOST = 1.5, 5, 200  # per batch size; calls


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
    """Times calls with the histories of test users, each history once, without a prefix cache.

    Args:
        loaded: A finished run.
        engine: It, loaded without a prefix cache.
    """
    histories = leave_one_out(loaded.run.histories).test.histories
    rng = np.random.default_rng(0)
    timings = []
    for batch in _BATCHES:
        walls: list[float] = []
        began = time.perf_counter()
        while len(walls) <= _LEAST or (
            len(walls) <= _MOST and time.perf_counter() - began < _SECONDS
        ):
            users = rng.integers(len(histories), size=batch)
            wanted = [histories[user].astype(np.int64) for user in users]
            before = time.perf_counter()
            engine.recommend_rows(wanted, _K)
            walls.append((time.perf_counter() - before) * 1000)
        timed = walls[1:]  # the first call makes buffers
        p50, p95 = np.percentile(timed, [50, 95]).tolist()
        timings.append(Timing(batch, len(timed), p50, p95))
    dtype = str(engine.model.text_embedding.weight.dtype).removeprefix("torch.")
    search = f"top {_K}, beam {max(engine.config.beam_width, _K)}, {dtype}, no prefix cache"
    name = machine(str(engine.device))
    return Latency(timings, name, torch.get_num_threads(), search)
