"""Decoding in a forked child process.

A child has the threads of its parent in name only: the first tensor operation that waits for one
hangs for ever, in PyTorch and in the C++ core alike, which share OpenMP's. So a child of a process
that has an engine works with one thread, and says so when it first decodes.
"""

import functools
import os
import sys

import torch


@functools.cache
def install_fork_guard() -> None:
    """Makes later children of this process work with one thread."""
    os.register_at_fork(after_in_child=_use_one_thread)


def report_fork() -> None:
    """Says once in a child that it works with one thread."""
    global _lost_threads
    if _lost_threads:
        print(
            f"store_engine: this process was forked from one with {_lost_threads} threads, which "
            "do not survive a fork: it works with 1 (start workers with 'spawn' for more)",
            file=sys.stderr,
            flush=True,
        )
        _lost_threads = 0


_lost_threads = 0  # of the parent, until they are reported


def _use_one_thread() -> None:
    global _lost_threads
    threads = torch.get_num_threads()
    if threads > 1:
        torch.set_num_threads(1)
        _lost_threads = threads
