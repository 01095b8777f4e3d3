"""Batches on their way to the device: made ahead, and copied there in one piece.

A copy costs the host some ten microseconds, and one out of pageable memory a wait. So all tensors
of a batch are laid into one block of pinned memory, by a thread that works while the step before
runs; what the device then has are views of the block.
"""

from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from typing import Any, TypeVar

import torch
from torch import Tensor

from store_engine.model.attention import PackedSequences

_T = TypeVar("_T")
_ALIGNMENT = 16  # bytes; that of the largest type, and of vectorised loads


class HostBatch:
    """A batch in the host's memory.

    Args:
        batch: Tensors and sequences in tuples of tuples, beside anything else.
        device: Where it goes. To a CPU nothing is copied.
    """

    def __init__(self, batch: Any, device: torch.device) -> None:
        self._batch, self._device = batch, device
        if device.type == "cpu":
            return
        tensors: list[Tensor] = []

        def noted(x: Tensor) -> Tensor:
            tensors.append(x)
            return x

        _map(batch, noted)
        sizes = (-(-x.nbytes // _ALIGNMENT) * _ALIGNMENT for x in tensors)
        self._begins = list(accumulate(sizes, initial=0))
        is_pinned = device.type == "cuda"
        self._block = torch.empty(self._begins[-1], dtype=torch.uint8, pin_memory=is_pinned)
        for x, begin in zip(tensors, self._begins, strict=False):
            self._block[begin : begin + x.nbytes] = x.reshape(-1).view(torch.uint8)

    def to_device(self) -> Any:
        """Returns the batch on the device; the host does not wait for the copy."""
        if self._device.type == "cpu":
            return self._batch
        block = self._block.to(self._device, non_blocking=True)
        begins = iter(self._begins)

        def moved(x: Tensor) -> Tensor:
            begin = next(begins)
            return block[begin : begin + x.nbytes].view(x.dtype).view(x.shape)

        return _map(self._batch, moved)


def _map(batch: Any, move: Callable[[Tensor], Tensor]) -> Any:
    """The batch with every tensor moved, in a fixed order."""
    if isinstance(batch, Tensor):
        return move(batch)
    if isinstance(batch, PackedSequences):
        return batch.map(move)
    if isinstance(batch, tuple):
        moved = [_map(part, move) for part in batch]
        return type(batch)(*moved) if hasattr(batch, "_fields") else tuple(moved)
    return batch


def prefetched(batches: Iterator[_T], device: torch.device) -> Generator[_T]:
    """Yields the same in the same order; a thread makes the next one while one is worked with."""

    def begin() -> None:  # else pinned memory belongs to the first GPU
        if device.type == "cuda":
            torch.cuda.set_device(device)

    end = object()
    with ThreadPoolExecutor(1, "batches", begin) as thread:
        ahead = thread.submit(next, batches, end)
        while (batch := ahead.result()) is not end:
            ahead = thread.submit(next, batches, end)
            yield batch  # type: ignore[misc]  # it is not the end
