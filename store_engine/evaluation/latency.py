"""How long a run's recommendations take here, beside the same search in plain PyTorch."""

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from store_engine.decoding.backends import BackendName
from store_engine.decoding.engine import Engine
from store_engine.errors import InputError
from store_engine.evaluation.plain_beam import PlainBeamSearch
from store_engine.model.dtype import Dtype
from store_engine.runs.run import Run, load_run

PLAIN, ENGINE, EVIDENCE = "plain PyTorch", "engine", "engine with evidence"
_MAX_REPEATS = 1000

Search = Callable[[], NDArray[np.int64]]  # -> (batch, k) catalogue rows


@dataclasses.dataclass(frozen=True)
class LatencySettings:
    """What is timed, and for how long.

    Args:
        k: Items of a recommendation, and beams.
        batch_sizes: Histories of a call.
        seconds: That one way to search is repeated for, five times at least.
        device: "cpu", "cuda", "cuda:N", or "auto": cuda where there is one.
        dtype: Of the weights; None: the run's.
    """

    k: int = 20
    batch_sizes: tuple[int, ...] = (1, 16)
    seconds: float = 3.0
    device: str = "auto"
    dtype: Dtype | None = None

    def __post_init__(self) -> None:
        """Refuses what cannot be timed."""
        if self.k < 1 or not self.batch_sizes or min(self.batch_sizes) < 1:
            raise InputError(
                f"k and batch sizes must be at least 1, got {self.k} and "
                f"{', '.join(map(str, self.batch_sizes))}"
            )
        if not 0 < self.seconds <= 3600:
            raise InputError(f"seconds must be in (0, 3600], got {self.seconds}")


def measure_latency(run: Run | str, settings: LatencySettings) -> list[dict[str, Any]]:
    """Times recommendations after histories as `draw_histories` gives them. No prefix cache.

    Args:
        run: A finished run, or its directory; changes in its journal are left out.
        settings: What is timed.

    Returns:
        Per batch size and way to search: `batch_size`, `provider`, `p50_ms`, `p95_ms` of a call,
        `requests_per_s` by the median, `times_faster` than plain PyTorch (None where that cannot
        run) and `same_items`, the share of the items that the engine without evidence finds too.

    Raises:
        InputError: The run is missing, unfinished or damaged, or the device is not there.
    """
    run = run if isinstance(run, Run) else load_run(run)
    engine = Engine.load(
        run,
        device=settings.device,
        dtype=settings.dtype,
        prefix_cache_mib=0.0,
        journal=False,  # plain PyTorch searches a catalogue without changes alone
    )
    k = min(settings.k, engine.catalog.num_items)
    plain = _plain_search(engine, run.vocabulary.bos_id)
    rows = []
    for batch_size in settings.batch_sizes:
        drawn = draw_histories(run, batch_size)
        histories = [history[-engine.max_history :] for history in drawn]
        searches = _searches(engine, histories, k)
        if plain is not None:
            lists = [history.tolist() for history in histories]
            searches[PLAIN] = lambda lists=lists: plain(lists, k)[0]  # type: ignore[misc]
        truth = searches[ENGINE]()
        spent = time_in_turn(searches, str(engine.device), 5, settings.seconds)
        base = np.median(spent[PLAIN]) if PLAIN in spent else None
        for name, milliseconds in spent.items():
            p50, p95 = np.quantile(milliseconds, [0.5, 0.95]).tolist()
            found = searches[name]()
            same = (found[:, :, None] == truth[:, None, :]) & (found[:, :, None] >= 0)
            rows.append(
                {
                    "batch_size": len(histories),
                    "provider": name,
                    "p50_ms": p50,
                    "p95_ms": p95,
                    "requests_per_s": 1e3 * len(histories) / p50,
                    "times_faster": None if base is None else float(base / p50),
                    "same_items": float(same.any(2).sum() / max(1, (truth >= 0).sum())),
                }
            )
    return rows


def draw_histories(run: Run, number: int, seed: int = 0) -> list[NDArray[np.int32]]:
    """Draws histories of test users; of a run that has no users, an imported one, random items.

    Args:
        run: A finished run.
        number: Of histories; a user may come twice.
        seed: Of the draw.

    Returns:
        `number` arrays of catalogue rows.
    """
    rng = np.random.default_rng(seed)
    if run.histories.num_users:
        known = run.split.test.histories
        return [known[user] for user in rng.integers(len(known), size=number)]
    shape = number, run.config.data.max_history
    return list(rng.integers(run.catalog.num_items, size=shape, dtype=np.int32))


def _searches(engine: Engine, histories: Sequence[NDArray[np.int32]], k: int) -> dict[str, Search]:
    def search(backend: BackendName, evidence: bool) -> NDArray[np.int64]:
        return engine.recommend_rows(
            histories, k, beam_width=k, exclude_history=False, backend=backend, evidence=evidence
        )[0]

    found: dict[str, Search] = {ENGINE: functools.partial(search, "auto", False)}
    if engine.config.evidence == "auto":
        found[EVIDENCE] = functools.partial(search, "auto", True)
    return found


def _plain_search(engine: Engine, bos: int) -> PlainBeamSearch | None:
    try:
        return PlainBeamSearch(engine, bos)
    except ValueError:  # a form of items that it does not know
        return None


def time_in_turn(
    runs: Mapping[str, Callable[[], object]], device: str, min_repeats: int, budget_s: float
) -> dict[str, list[float]]:
    """Times several ways to do the same by the wall clock, in turn, after one warm-up of each.

    In turn, so that a machine that slows down for a while does so for all, and ratios stay true. A
    slow run leaves the rounds when its time is spent; the others go on.

    Args:
        runs: What is timed, by name.
        device: A CUDA device is synchronised around each repetition.
        min_repeats: Repetitions of each run, whatever they take.
        budget_s: Seconds of its own after which a run is not repeated again.

    Returns:
        Milliseconds of every repetition, by name.
    """
    for run in runs.values():
        run()
    durations: dict[str, list[float]] = {name: [] for name in runs}
    going = dict(runs)
    while going:
        for name, run in list(going.items()):
            spent = durations[name]
            spent.append(_milliseconds(run, device))
            is_long_enough = sum(spent) >= 1e3 * budget_s or len(spent) >= _MAX_REPEATS
            if len(spent) >= min_repeats and is_long_enough:
                del going[name]
    return durations


def _milliseconds(run: Callable[[], object], device: str) -> float:
    on_gpu = device.startswith("cuda")
    if on_gpu:
        torch.cuda.synchronize(device)
    begin = time.perf_counter()
    run()
    if on_gpu:
        torch.cuda.synchronize(device)
    return 1e3 * (time.perf_counter() - begin)
