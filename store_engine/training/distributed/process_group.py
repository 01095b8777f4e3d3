"""The ranks of a training: joining them, waiting for the first, stopping and ending them.

On a CPU DeepSpeed compiles a communication op when it joins the ranks for the first time on a
machine. A compile that was killed leaves a lock file for which PyTorch would wait for ever.
"""

import contextlib
import importlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import deepspeed
import torch
from deepspeed.accelerator import get_accelerator
from torch.distributed import DistNetworkError, DistStoreError
from torch.utils import cpp_extension

from store_engine.errors import InputError

# the other ranks wait this long while the first one reads the data
_JOIN_TIMEOUT = timedelta(hours=2)
_POLL = timedelta(hours=1)  # a rank that is gone is noticed at once
_LAUNCHED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
# a lock without an owner on this machine may belong to another one that shares the folder
_QUIET_S = 90.0
_WATCH_S = 5.0


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
    folders = _prepare_compile() if os.environ.get("LOCAL_RANK", "0") == "0" else []
    try:
        with _locks_watched(folders), _without_word_of_success():
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


@contextlib.contextmanager
def _without_word_of_success() -> Iterator[None]:
    """Keeps back DeepSpeed's `print` that its op was built, which tells a user nothing."""
    # not by attribute: deepspeed.comm.torch is PyTorch itself
    module: Any = importlib.import_module("deepspeed.comm.torch")
    module.print = lambda *_: None
    try:
        yield
    finally:
        del module.print


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


def _prepare_compile() -> list[Path]:
    """Says what DeepSpeed will compile, once per machine, and clears what a kill left of it.

    Returns:
        The folders that it compiles in.
    """
    folders = []
    for op in ("ShareMemCommBuilder", "AsyncIOBuilder"):
        builder = get_accelerator().create_op_builder(op)
        if builder is None or not hasattr(builder, "name"):
            continue
        folder = Path(cpp_extension._get_build_directory(builder.name, verbose=False))
        folders.append(folder)
        clear_stale_lock(folder)
        is_needed = op == "ShareMemCommBuilder" and builder.is_compatible(verbose=False)
        if is_needed and not (folder / f"{builder.name}.so").exists():
            print(
                f"DeepSpeed compiles {builder.name}, once per machine: about a minute", flush=True
            )
    return folders


@contextlib.contextmanager
def _locks_watched(folders: list[Path]) -> Iterator[None]:
    """Clears stale locks while DeepSpeed may be waiting for one, which it would do for ever.

    Another process can take a lock and be killed after `_prepare_compile` has looked.
    """
    is_done = threading.Event()

    def watch() -> None:
        while not is_done.wait(_WATCH_S):
            for folder in folders:
                clear_stale_lock(folder, is_done=is_done)

    if folders:
        threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        is_done.set()


def clear_stale_lock(
    folder: Path, quiet_s: float = _QUIET_S, is_done: threading.Event | None = None
) -> None:
    """Removes the lock of a compile that was killed.

    A lock is stale if no process of this machine has it open, and nothing in the folder changed
    for `quiet_s` seconds: another machine may share the folder. Until then it waits.

    Args:
        folder: Where the compile works.
        quiet_s: Seconds.
        is_done: Set by another thread when there is no need to wait any longer.
    """
    lock = folder / "lock"
    is_said = False
    while lock.exists() and not _is_open(lock):
        if is_done is not None and is_done.is_set():
            return
        try:
            changed = max(path.stat().st_mtime for path in (folder, *folder.iterdir()))
        except FileNotFoundError:  # the compile goes on
            continue
        left = quiet_s - (time.time() - changed)
        if left <= 0:
            lock.unlink(missing_ok=True)
            print(f"{lock}: removed, no compile is running", flush=True)
            return
        if not is_said:
            is_said = True
            print(
                f"{lock}: left by a compile that was killed, or made by another machine; "
                f"removed if nothing happens there for {left:.0f} s",
                flush=True,
            )
        time.sleep(min(left, 1.0))


def _is_open(path: Path) -> bool:
    """Whether a process of this machine, as far as we may look, has the file open."""
    wanted = str(path.resolve())
    for handle in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            if os.readlink(handle) == wanted:
                return True
    return False
