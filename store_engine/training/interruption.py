"""SIGTERM, heard between two steps: a scheduler that takes the machine away loses nothing."""

import signal
from types import FrameType

import torch


class InterruptedTraining(Exception):
    """Training was asked to stop, saved a checkpoint and did."""


class StopRequest:
    """Remembers a SIGTERM until the step is over; a context manager."""

    def __init__(self, device: torch.device) -> None:
        self._device = device  # where the process group communicates
        self._is_asked = False
        self._previous: signal.Handlers | int | object = signal.SIG_DFL

    def __enter__(self) -> "StopRequest":
        self._previous = signal.signal(signal.SIGTERM, self._remember)
        return self

    def __exit__(self, *exception: object) -> None:
        signal.signal(signal.SIGTERM, self._previous)  # type: ignore[arg-type]

    def is_asked(self) -> bool:
        """Whether any rank was asked. Every rank calls it, and all get the same answer."""
        flag = torch.tensor(float(self._is_asked), device=self._device)
        torch.distributed.all_reduce(flag)
        return flag.item() > 0

    def _remember(self, signum: int, frame: FrameType | None) -> None:
        self._is_asked = True
