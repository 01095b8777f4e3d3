"""Kills the replacement of a run, and the saving of its files, at random moments.

python tests/runs/overwrite_kills.py --points 200

A child process is killed before or after a random one of the C functions that it calls: every
system call lies between two of them. Then the run is opened: it must be the old one or the new one,
every file whole, and nothing may be left beside it. Half of the replacements do without the
system's exchange of two names. Nothing is trained: a run here is a few small files.
"""

import argparse
import collections
import dataclasses
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from store_engine.config import Config
from store_engine.files import directory_swap
from store_engine.files.atomic import atomic_open
from store_engine.files.directory_swap import recover
from store_engine.runs.run_directory import RunDirectory, RunOrigin, lock_to_replace


def begin(root: Path, number: int, *, is_replacing: bool) -> RunDirectory:
    """Begins run number `number`, whose files all say so."""

    def write_data(paths: Any) -> None:
        for path in (paths.items, paths.histories):
            path.write_bytes(str(number).encode() * 1000)
        paths.item_texts.mkdir()
        (paths.item_texts / "tokens.bin").write_bytes(str(number).encode() * 1000)

    lock = lock_to_replace(root) if is_replacing else None
    return RunDirectory.create(root, RunOrigin(Config(), str(number)), write_data, lock)


def replace(root: Path, number: int) -> None:
    """What --overwrite does: replaces the run at `root` by run number `number`."""
    begin(root, number, is_replacing=True).close()


def replace_in_two_steps(root: Path, number: int) -> None:
    """The same, where the system cannot exchange two names."""
    directory_swap._exchange = lambda first, second: False
    replace(root, number)


def save(root: Path, number: int) -> None:
    """What the end of a stage does: writes a file and lists it."""
    with (
        RunDirectory.open_to_write(root) as run,
        run.writing(run.sids),
        atomic_open(run.sids) as file,
    ):
        file.write(str(number).encode() * 1000)


def change(root: Path, number: int) -> None:
    """What --resume with another run-time key does."""
    with RunDirectory.open_to_write(root) as run:
        config = run.read_config()
        run.write_config(dataclasses.replace(config, run_dir=config.run_dir + "x"))


def live(act: Callable[[Path, int], None], root: Path, number: int, kill_at: int) -> int:
    """Acts in a child that is killed at its `kill_at`-th moment, 0 = never.

    Returns:
        Moments of the child's life, 0 when it was killed.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        moments = 0

        def count(frame: Any, event: str, function: Any) -> None:
            nonlocal moments
            if event in ("c_call", "c_return"):
                moments += 1
                if moments == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.setprofile(count)
        act(root, number)
        sys.setprofile(None)
        os.write(writing, str(moments).encode())
        os._exit(0)
    os.close(writing)
    _, status = os.waitpid(child, 0)
    with os.fdopen(reading) as pipe:
        moments = int(pipe.read() or 0)
    assert status == 0 or (kill_at and os.WTERMSIG(status) == signal.SIGKILL), status
    return moments


def standing(root: Path) -> tuple[int, bool, str]:
    """Which run stands at `root`, whether it has SIDs, and its run_dir; all must be whole."""
    recover(root)
    assert [path.name for path in root.parent.iterdir()] == [root.name]
    with RunDirectory.open_to_write(root) as run:
        manifest = run.read_manifest()
        for name in manifest.files:
            run.check(root / name, manifest, always=True)
        for path in (run.items, run.histories, run.item_texts / "tokens.bin"):
            assert path.read_bytes() == manifest.dataset.encode() * 1000, path
        own = {"run.json", "lock", "config.toml", "items.jsonl", "histories.npz", "texts.tokens"}
        assert {path.name for path in root.iterdir()} <= own | {"sids.npz"}
        return int(manifest.dataset), run.is_complete(run.sids), run.read_config().run_dir


def kill(folder: Path, points: int, seed: int) -> dict[str, int]:
    """Kills `points` times; returns how often the old and the new state was found."""
    rng = np.random.default_rng(seed)
    acts = (replace, replace_in_two_steps, save, change)
    found: collections.Counter[str] = collections.Counter()
    lengths = {}
    for act in dict.fromkeys(acts):
        root = folder / act.__name__ / "run"
        begin(root, 0, is_replacing=False).close()
        lengths[act] = live(act, root, 1, kill_at=0)
    for point in range(points):
        act = acts[point % len(acts)]
        root = folder / act.__name__ / "run"
        before = standing(root)
        live(act, root, before[0] + 1, kill_at=int(rng.integers(1, lengths[act])))
        after = standing(root)
        wanted = {
            replace: (before[0] + 1, False, "runs/run"),
            replace_in_two_steps: (before[0] + 1, False, "runs/run"),
            save: (before[0], True, before[2]),
            change: (*before[:2], before[2] + "x"),
        }[act]
        # the SIDs of a stage that is killed when it is done again are made again
        assert after in (before, wanted, (before[0], False, before[2]))
        found[f"{act.__name__}: {'new' if after == wanted else 'old'}"] += 1
    return dict(sorted(found.items()))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        report: dict[str, Any] = dict(kill(Path(folder), args.points, args.seed))
    print(json.dumps(report | {"wall_s": round(time.perf_counter() - began)}))
