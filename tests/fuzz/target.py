"""What the harness loads: a loader, its valid files, and how they are damaged."""

import itertools
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import mutations as m

from store_engine.errors import InputError


@dataclass(frozen=True)
class Target:
    """One loader.

    Args:
        name: As on the command line.
        load: Loads a folder's files and uses what came out.
        make_seeds: Writes valid files, each variant into a folder of its own in the one given.
        mutations: File name -> the damages that it may have.
        allowed: What `load` may raise.
    """

    name: str
    load: Callable[[Path], object]
    make_seeds: Callable[[Path], None]
    mutations: Mapping[str, Sequence[m.Mutation]]
    allowed: tuple[type[Exception], ...] = (InputError, OSError)


def one(
    name: str,
    file: str,
    load: Callable[[Path], object],
    write: Callable[[Path], object],
    *mutations: m.Mutation,
) -> Target:
    """A target of one file and one variant."""

    def make_seeds(root: Path) -> None:
        (root / "a").mkdir()
        write(root / "a" / file)

    return Target(name, lambda folder: load(folder / file), make_seeds, {file: mutations})


def broken() -> list[Target]:
    """Loaders that fail, each in one way: the harness must find them."""

    def raises(path: Path) -> None:
        raise ValueError("not an InputError")

    failures: dict[str, Callable[[Path], object]] = {
        "crash": lambda path: os.kill(os.getpid(), signal.SIGSEGV),
        "exit": lambda path: os._exit(0),
        "hang": lambda path: all(True for _ in itertools.count()),
        "wait": lambda path: time.sleep(3600),
        "memory": lambda path: bytes(1 << 33),
        "exception": raises,
    }

    def fails(failure: Callable[[Path], object]) -> Callable[[Path], object]:
        return lambda path: failure(path) if path.read_bytes() != b"{}" else None

    return [
        one(f"broken {name}", "x", fails(failure), lambda path: path.write_text("{}"), m.blind)
        for name, failure in failures.items()
    ]
