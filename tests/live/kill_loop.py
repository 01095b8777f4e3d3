"""Kills the owner of a journal at random moments; what it acknowledged must be there afterwards.

python tests/live/kill_loop.py --kills 200

A child changes a run: it adds, updates and removes items, adds events, forgets users and compacts,
and acknowledges every change on a pipe once the call has returned. It is killed by SIGKILL: half of
the times before or after a random one of the C functions that it calls (SQLite's among them), half
of the times by the clock, in the middle of whatever it does. Then the run is loaded anew. It must
hold every change that was acknowledged, and of the one under way all or nothing; every file must be
whole. The next child goes on with what was found.
"""

import argparse
import collections
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from store_engine.catalog.live_catalog import LiveCatalog
from store_engine.data.catalog import Catalog
from store_engine.files.directory_swap import recover
from store_engine.live.live_run import LiveRun
from store_engine.runs.inspect_run import inspect_run
from store_engine.runs.run import load_run

KINDS = ("add", "add", "update", "remove", "events", "events", "forget", "compact")
READ = 8  # events of a user that the run reads; to compact keeps no more of the later ones
SHARES = np.array([4, 4, 2, 3, 3, 3, 1, 1]) / 21


class Act(NamedTuple):
    """One change."""

    kind: str
    number: int  # of the act, from which all else follows
    items: tuple[str, ...]
    user: str


class State:
    """What a run must hold, in plain Python."""

    def __init__(self) -> None:
        self.items = {f"item {n}": "" for n in range(60)}
        self.first = {"anna": range(20), "ben": range(20, 40), "carl": range(40, 60)}
        self.users = {u: [f"item {n}" for n in rows] for u, rows in self.first.items()}

    def after(self, act: Act | None) -> "State":
        """The state after a change."""
        other = State()
        other.items, other.users = dict(self.items), {u: [*h] for u, h in self.users.items()}
        if act is None:
            return other
        if act.kind in ("add", "update"):
            other.items |= dict.fromkeys(act.items, f"title {act.number}")
        elif act.kind == "remove":
            other.items = {k: v for k, v in other.items.items() if k not in act.items}
        elif act.kind == "events":
            other.users.setdefault(act.user, []).extend(act.items)
        elif act.kind == "forget":
            other.users.pop(act.user, None)
        return other

    def next(self, number: int, rng: np.random.Generator) -> Act:
        """A change that can be made now."""
        kind = str(rng.choice(KINDS, p=SHARES))
        there, some = sorted(self.items), int(rng.integers(1, 4))
        items = tuple(str(one) for one in rng.choice(there, some, replace=False))
        user = f"user {rng.integers(5)}"
        if kind == "add":
            items = tuple(f"new {number} {n}" for n in range(some))
        if kind == "remove" and len(there) < 20:
            kind = "update"
        if kind == "forget":
            if not self.users:
                kind = "events"
            else:
                user = str(rng.choice(sorted(self.users)))
        return Act(kind, number, items, user)


def load(root: Path) -> LiveRun:
    """The run's catalogue and histories, without its model."""
    run = load_run(root, verify=True)
    sids, trie = run.sid_table.sids, run.trie
    offsets = torch.arange(sids.shape[1]) * 100
    return LiveRun(LiveCatalog(run.catalog, sids, trie, offsets), run)


def perform(live: LiveRun, act: Act) -> None:
    """Makes a change."""
    texts = (f"title {act.number}",) * len(act.items)
    catalog = Catalog(act.items, {"title": texts, "brand": ("",) * len(act.items)})
    rng = np.random.default_rng(act.number)
    sizes = live.items.view.trie.codebook_sizes
    sids = np.stack([rng.integers(0, size, len(act.items)) for size in sizes], 1)
    if act.kind == "add":
        live.add(catalog, sids, None)
    elif act.kind == "update":
        live.update(catalog, sids, None)
    elif act.kind == "remove":
        live.remove(act.items)
    elif act.kind == "events":
        live.add_events([(act.user, item, act.number) for item in act.items], "error")
    elif act.kind == "forget":
        live.forget(act.user)
    else:
        live.compact()


def found(live: LiveRun, state: State) -> bool:
    """Whether a run holds a state."""
    ids, titles = live.items.catalog.item_ids, live.items.catalog.fields["title"]
    there = {ids[row]: titles[row] for row in live.items.present().tolist()}
    items = {i: t if t.startswith("title ") else "" for i, t in there.items()}
    users = {}
    for user in {*state.users, *state.first, *(f"user {n}" for n in range(5))}:
        rows = live.histories.rows(user)
        if rows is not None:
            users[user] = [live.items.item_id(row) for row in rows[-READ:]]
    read = {user: history[-READ:] for user, history in state.users.items()}
    return items == state.items and users == read


def live_and_die(root: Path, acts: list[Act], kill_at: int, life_s: float) -> int:
    """Makes changes in a child that is killed at its `kill_at`-th moment, or by the clock.

    Returns:
        Changes that it acknowledged.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            live = load(root)
            os.write(writing, b"r")
            moments = 0

            def count(frame: Any, event: str, function: Any) -> None:
                nonlocal moments
                if event in ("c_call", "c_return"):
                    moments += 1
                    if moments == kill_at:
                        os.kill(os.getpid(), signal.SIGKILL)

            if kill_at:
                sys.setprofile(count)
            for act in acts:
                perform(live, act)
                os.write(writing, b"a")
            os._exit(0)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
    os.close(writing)
    with os.fdopen(reading, "rb", buffering=0) as pipe:
        assert pipe.read(1) == b"r", "the child could not load the run"
        if not kill_at:
            time.sleep(life_s)
            os.kill(child, signal.SIGKILL)
        acknowledged = b"".join(iter(lambda: pipe.read(1000), b""))
    _, status = os.waitpid(child, 0)
    assert status == 0 or os.WTERMSIG(status) == signal.SIGKILL, status
    return len(acknowledged)


def plan(state: State, first: int, rng: np.random.Generator) -> Iterator[tuple[Act, State]]:
    """Changes one after another, and the state after each."""
    while True:
        act = state.next(first, rng)
        state = state.after(act)
        yield act, state
        first += 1


def kill(root: Path, kills: int, seed: int) -> dict[str, int]:
    """Kills `kills` times; returns what was counted."""
    rng = np.random.default_rng(seed)
    state, number = State(), 0
    counts: collections.Counter[str] = collections.Counter()
    for attempt in range(kills):
        planned = [pair for pair, _ in zip(plan(state, number, rng), range(12), strict=False)]
        acts, states = [act for act, _ in planned], [state, *(after for _, after in planned)]
        kill_at = int(rng.integers(1, 4000)) if attempt % 2 else 0
        done = live_and_die(root, acts, kill_at, float(rng.uniform(0, 0.25)))
        live = load(root)
        which = [n for n in (done, done + 1) if n < len(states) and found(live, states[n])]
        if not which:  # a user may be forgotten in the journal, and files not yet rewritten
            raise AssertionError(f"attempt {attempt}: of {acts[: done + 1]} {done} were made")
        live.close()
        recover(root)
        left = [path.name for path in root.parent.iterdir()]
        assert left == [root.name], left
        assert inspect_run(root, verify=True).not_whole == []
        counts["acknowledged"] += done
        under_way = acts[done].kind if done < len(acts) else "nothing"
        counts[f"killed in {under_way}, {'there' if which[-1] > done else 'not there'}"] += 1
        state, number = states[which[-1]], number + len(acts)
    return dict(sorted(counts.items()))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1] / "fixtures"))
    from live_runs import make_run

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "place").mkdir()
        report: dict[str, Any] = dict(
            kill(make_run(Path(folder, "place", "run")), args.kills, args.seed)
        )
    print(json.dumps(report | {"wall_s": round(time.perf_counter() - began)}))
