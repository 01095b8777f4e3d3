"""How many threads to compute with: what the environment says, else what is faster right now.

Idle cores make two threads nearly twice as fast as one. Cores that other processes keep busy make
them slower than one, because every parallel region waits for its last thread. How long a waiting
thread spins before it sleeps makes this mild or bad, and is read by libgomp when it is loaded: the
entry points set GOMP_SPINCOUNT before they import torch, a server that imports the engine should do
so too (docs/decoding.md).
"""

import os
import time
from collections.abc import Callable
from typing import NamedTuple

import torch

from store_engine.errors import InputError

MAX_THREADS = 1024
_MEASURED_S = 0.1
_PRODUCTS = 20  # of a round; small ones, with a parallel region each


class ThreadChoice(NamedTuple):
    """A number of threads, and why it was chosen."""

    num_threads: int
    reason: str


def choose_threads(
    requested: int = 0,
    ranks: int = 1,
    measure: Callable[[int], float] | None = None,
) -> ThreadChoice:
    """Chooses the number of threads of this process; `torch.set_num_threads` makes it so.

    In this order: what is requested; OMP_NUM_THREADS; this process' share of the cores, or one
    thread where a short measurement shows that all are slower, because the cores are busy.

    Args:
        requested: Number of threads; 0 leaves the choice to the rest.
        ranks: Processes of this kind on the machine, which share its cores.
        measure: Seconds that a given number of threads takes for the same work; for tests.

    Raises:
        InputError: The number is above 1,024, or negative.
    """
    if requested:
        return ThreadChoice(_checked(requested, "the number of threads"), "as requested")
    stated, said = environment_threads()
    if stated:
        return ThreadChoice(_checked(stated, "OMP_NUM_THREADS"), "OMP_NUM_THREADS")
    cores = len(os.sched_getaffinity(0))
    share = max(1, min(cores // ranks, MAX_THREADS))
    what = f"{said}{cores} cores" + (f" / {ranks} ranks" if ranks > 1 else "")
    if share == 1:
        return ThreadChoice(1, what)
    one, every = ((measure or _measure)(count) for count in (1, share))
    if every > one:
        slower = f"{share} threads are {every / one:.1f} x slower than one"
        return ThreadChoice(1, f"{what}, which are busy: {slower}")
    return ThreadChoice(share, what)


def environment_threads() -> tuple[int, str]:
    """Reads OMP_NUM_THREADS: 0 if it is unset or no number, and in the latter case a word on it."""
    value = os.environ.get("OMP_NUM_THREADS", "")
    first = value.split(",")[0].strip()  # the others are for nested regions
    if first.isascii() and first.isdecimal() and int(first) > 0:
        return int(first), ""
    return 0, f"OMP_NUM_THREADS={value!r} is no number of threads; " if value.strip() else ""


def _checked(num_threads: int, name: str) -> int:
    if not 0 < num_threads <= MAX_THREADS:
        raise InputError(f"{name} must be in [1, {MAX_THREADS:,}], got {num_threads:,}")
    return num_threads


def _measure(num_threads: int) -> float:
    """Seconds for a few small products, on average: the slow rounds are what busy cores cost.

    Takes a tenth of a second, or one round where that takes longer.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        a, b = torch.ones(256, 256), torch.ones(256, 256)
        torch.mm(a, b)  # starts the threads
        began, num_rounds = time.perf_counter(), 0
        while num_rounds == 0 or time.perf_counter() - began < _MEASURED_S:
            for _ in range(_PRODUCTS):
                torch.mm(a, b)
            num_rounds += 1
        return (time.perf_counter() - began) / num_rounds
    finally:
        torch.set_num_threads(before)
