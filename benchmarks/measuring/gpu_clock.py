"""Times work on a CUDA device by its own events: a wall clock sees the launches, not the kernels.

Before each repetition the L2 cache is emptied, then the device is kept busy until the host has
launched all of the work, so that kernels of a few microseconds follow each other without gaps.
Work that waits for the device half-way shows its gaps: they are its own.
"""

import time
from collections.abc import Callable

import torch

FLUSH_BYTES = 256 << 20  # several times the L2 cache of any GPU
CLOCK_HZ = 2e9  # of the device's cycle counter, about
MAX_BUSY_S = 0.01


def replayed(run: Callable[[], object]) -> Callable[[], None]:
    """Captures work that does not wait in a CUDA graph: what it returns replays it."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):  # kernels are compiled, memory is there
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def device_milliseconds(
    run: Callable[[], object], budget_s: float, min_repeats: int, max_repeats: int = 1000
) -> list[float]:
    """Milliseconds between two events around `run`, of each repetition.

    Args:
        run: Launches the work. Run twice before it is timed: kernels are compiled, memory is there.
        budget_s: Seconds after which it is not repeated again.
        min_repeats: Repetitions, whatever they take.
        max_repeats: Repetitions at most.
    """
    run()
    torch.cuda.synchronize()
    began = time.perf_counter()
    run()
    launch_s = time.perf_counter() - began
    torch.cuda.synchronize()
    once_s = time.perf_counter() - began
    num_repeats = max(min_repeats, min(max_repeats, int(budget_s / max(once_s, 1e-5))))
    busy_cycles = int(2 * min(launch_s, MAX_BUSY_S) * CLOCK_HZ)
    flush = torch.empty(FLUSH_BYTES, dtype=torch.int8, device="cuda")
    pairs = []
    for _ in range(num_repeats):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        flush.zero_()
        torch.cuda._sleep(busy_cycles)
        begin.record()
        run()
        end.record()
        pairs.append((begin, end))
    torch.cuda.synchronize()
    return [begin.elapsed_time(end) for begin, end in pairs]
