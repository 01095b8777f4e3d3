"""The ranks of a training: joining them, waiting for the first, stopping and ending them."""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from datetime import timedelta
from types import FrameType
from typing import Any, NoReturn

import deepspeed
import torch
from torch.distributed import DistNetworkError, DistStoreError

from store_engine.errors import InputError
from store_engine.training.distributed.compiled_op import compiled_op

# the other ranks wait this long while the first one reads the data
_JOIN_TIMEOUT = timedelta(hours=2)
_POLL = timedelta(hours=1)  # a rank that is gone is noticed at once
_LAUNCHED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def launched_rank() -> int:
    """Reads which rank the launcher made this process; 0 without a launcher.

    Raises:
        InputError: The launcher's variables are not complete, or no numbers.
    """
    if "RANK" not in os.environ:
        return 0
    if missing := [name for name in _LAUNCHED if name not in os.environ]:
        raise InputError(f"the launcher set RANK but not {', '.join(missing)}; unset RANK")
    values = {name: os.environ[name] for name in _LAUNCHED if name != "MASTER_ADDR"}
    for name, value in values.items():
        if not (value.isascii() and value.isdecimal()):
            raise InputError(f"{name} must be a whole number, is {value!r}")
    return int(values["RANK"])


@contextlib.contextmanager
def process_group() -> Iterator[None]:
    """Joins the launcher's process group, or makes one of this process, and leaves it at the end.

    Its threads may outlive it, as ZeRO-3's parameters hold on to their group: a program that ends
    after it does so by `exit_rank`.

    Raises:
        InputError: The port that the launcher chose is taken.
    """
    launched_rank()
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    alone |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}  # 0: any free port
    is_alone = "RANK" not in os.environ
    if is_alone:
        os.environ.update(alone)
    try:
        with compiled_op("ShareMemCommBuilder"):  # which on a CPU joins the ranks of a machine
            deepspeed.init_distributed(verbose=False, timeout=_JOIN_TIMEOUT)
    except (DistNetworkError, RuntimeError) as error:
        if "EADDRINUSE" not in str(error) and "address already in use" not in str(error):
            raise
        port = os.environ["MASTER_PORT"]
        raise InputError(
            f"port {port} is taken, perhaps by another training: "
            f"start with `deepspeed --master_port PORT` and a free one"
        ) from error
    try:
        yield
    finally:
        deepspeed.comm.destroy_process_group()
        for name in alone if is_alone else ():
            os.environ.pop(name, None)


def wait_for_first(what: str, store: Any = None) -> None:
    """Waits until rank 0 has come here too, however long that takes. Every rank calls it.

    Args:
        what: A name for this place; two places have two.
        store: Where rank 0 leaves word; by default the process group's.

    Raises:
        DistNetworkError: Rank 0 is gone.
    """
    if torch.distributed.get_world_size() == 1:
        return
    store = store or torch.distributed.distributed_c10d._get_default_store()
    if torch.distributed.get_rank() == 0:
        store.set(what, "done")
        return
    while True:
        try:
            return store.wait([what], _POLL)
        except DistStoreError:  # not yet
            continue


class InterruptedTraining(Exception):
    """Training was asked to stop, saved a checkpoint and did."""


class StopRequest:
    """Remembers a SIGTERM or SIGINT until the step is over; a context manager.

    A second SIGINT interrupts at once: pressing Ctrl-C twice does not wait for the step.
    """

    def __init__(self) -> None:
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
        """Whether this rank was asked."""
        return bool(self._asked_by)

    def _remember(self, signum: int, frame: FrameType | None) -> None:
        if signum == signal.SIGINT and signum in self._asked_by:
            raise KeyboardInterrupt
        self._asked_by.add(signum)


def exit_rank(status: int) -> NoReturn:
    """Ends this process at once, with what was printed but without Python's teardown.

    A thread of Gloo may still hold the last work's tensors, and aborts the process ("terminate
    called without an active exception") if it lets go of them while Python tears itself down.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
