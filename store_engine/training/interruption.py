"""SIGTERM and SIGINT, heard between two steps: whoever takes the machine away loses nothing."""

import signal
from types import FrameType
from typing import Any

import torch


class InterruptedTraining(Exception):
    """Training was asked to stop, saved a checkpoint and did."""


class StopRequest:
    """Remembers a SIGTERM or SIGINT until the step is over; a context manager.

    A second SIGINT interrupts at once: whoever presses Ctrl-C again does not want to wait.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device  # where the process group communicates
        self._asked_by: set[int] = set()
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def is_asked(self) -> bool:
        """Tells whether any rank was asked. Every rank calls it, and all get the same answer."""
        flag = torch.tensor(float(bool(self._asked_by)), device=self._device)
        torch.distributed.all_reduce(flag)
        return flag.item() > 0

    def _remember(self, signum: int, frame: FrameType | None) -> None:
        if signum == signal.SIGINT and signum in self._asked_by:
            raise KeyboardInterrupt
        self._asked_by.add(signum)
