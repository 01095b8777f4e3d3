"""The ops that DeepSpeed compiles when it first needs them on a machine.

A compile takes a minute or more, in silence. One that was killed leaves a lock file for which
PyTorch would wait for ever.
"""

import contextlib
import importlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deepspeed.accelerator import get_accelerator
from torch.utils import cpp_extension

from store_engine.waiting import waiting

# a lock without an owner on this machine may belong to another one that shares the folder
_QUIET_S = 90.0
_WATCH_S = 5.0
_COMPILES = "DeepSpeed makes {} ready in {}; where it must compile it, that takes some minutes"


@contextlib.contextmanager
def compiled_op(builder_name: str) -> Iterator[None]:
    """Says so if DeepSpeed compiles an op in this block, and clears the lock of a killed compile.

    On the first rank of a machine; the others wait for it, and say nothing.

    Args:
        builder_name: Of DeepSpeed's builder, as in "AsyncIOBuilder".
    """
    is_first = os.environ.get("LOCAL_RANK", "0") == "0"
    builder = get_accelerator().create_op_builder(builder_name) if is_first else None
    with contextlib.ExitStack() as stack:
        stack.enter_context(_without_word_of_success())
        if builder is not None and hasattr(builder, "name"):
            folder = Path(cpp_extension._get_build_directory(builder.name, verbose=False))
            clear_stale_lock(folder)
            stack.enter_context(_lock_watched(folder))
            # also where it is built: for another environment, or by a process that is waited for
            if builder.is_compatible(verbose=False):
                stack.enter_context(waiting(_COMPILES.format(builder.name, folder)))
        yield


@contextlib.contextmanager
def _without_word_of_success() -> Iterator[None]:
    """Keeps back DeepSpeed's `print` that its communication op was built: it tells nothing."""
    # not by attribute: deepspeed.comm.torch is PyTorch itself
    module: Any = importlib.import_module("deepspeed.comm.torch")
    module.print = lambda *_: None
    try:
        yield
    finally:
        del module.print


@contextlib.contextmanager
def _lock_watched(folder: Path) -> Iterator[None]:
    """Clears a stale lock while DeepSpeed may be waiting for it, which it would do for ever.

    Another process can take the lock and be killed after `compiled_op` has looked.
    """
    is_done = threading.Event()

    def watch() -> None:
        while not is_done.wait(_WATCH_S):
            clear_stale_lock(folder, is_done=is_done)

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
