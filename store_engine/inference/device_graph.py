"""Work of static shapes on a device, launched as one: a CUDA graph where there is CUDA.

What the host gives and what it gets are one copy each, from and to memory that the device reads
itself (pinned). Elsewhere the same work runs operation by operation.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_ALIGN = 32  # int32 numbers: the kernels read sections that begin at 128 bytes
_WARM_UPS = 2  # runs before a capture: kernels are compiled, libraries make their workspaces


class Inputs:
    """What the host gives to a device's work: named int32 arrays, sent in one copy.

    Args:
        shapes: Shape of each array.
        device: Where they go.

    Attributes:
        arrays: Name -> what the host writes.
        tensors: Name -> what the device reads after `send`.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], device: torch.device) -> None:
        sizes = [-(-math.prod(shape) // _ALIGN) * _ALIGN for shape in shapes.values()]
        self._host = torch.zeros(sum(sizes), dtype=torch.int32, pin_memory=device.type == "cuda")
        self._device = torch.zeros(sum(sizes), dtype=torch.int32, device=device)
        self.tensors = _sections(self._device, sizes, shapes)
        self.arrays: dict[str, NDArray[np.int32]] = {
            name: tensor.numpy() for name, tensor in _sections(self._host, sizes, shapes).items()
        }

    def send(self) -> None:
        """Copies all arrays to the device; does not wait."""
        self._device.copy_(self._host, non_blocking=True)


def _sections(
    memory: Tensor, sizes: list[int], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Tensor]:
    parts = zip(memory.split(sizes), shapes.items(), strict=True)
    return {name: part[: math.prod(shape)].view(shape) for part, (name, shape) in parts}


class DeviceGraph:
    """Work on a device, captured when it is made.

    Args:
        work: Reads the inputs, and other memory that stays where it is; returns a tensor of the
            same shape in every run.
        inputs: What it reads.
        pool: Memory of other graphs that are never run at the same time as this one; see
            `graph_pool`.
    """

    def __init__(
        self, work: Callable[[], Tensor], inputs: Inputs, device: torch.device, pool: Any
    ) -> None:
        self._work, self._inputs, self._device = work, inputs, device
        self._graph: torch.cuda.CUDAGraph | None = None
        if device.type == "cuda":
            self._graph, self._output = _capture(work, device, pool)
            self._result = torch.empty_like(self._output, device="cpu", pin_memory=True)

    def run(self) -> Tensor:
        """Sends the inputs, runs the work and returns its result on the CPU, for this run alone."""
        if self._graph is None:
            self._inputs.send()
            output = self._work()
            return torch.empty(output.shape, dtype=output.dtype).copy_(output)
        with torch.cuda.device(self._device):
            self._inputs.send()
            self._graph.replay()
            self._result.copy_(self._output, non_blocking=True)
            torch.cuda.current_stream().synchronize()
        return self._result.clone()


def graph_pool(device: torch.device) -> Any:
    """Makes memory for graphs that are run one at a time."""
    return torch.cuda.graph_pool_handle() if device.type == "cuda" else None


def _capture(
    work: Callable[[], Tensor], device: torch.device, pool: Any
) -> tuple[torch.cuda.CUDAGraph, Tensor]:
    """Captures work on a stream of its own, as CUDA demands."""
    with torch.cuda.device(device):
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UPS):
                work()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # other threads may use the GPU meanwhile
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            output = work()
    return graph, output
