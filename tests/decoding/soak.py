"""Recommends from eight threads beside adds, removals and definitions, and checks every answer.

python tests/decoding/soak.py --minutes 10
python tests/decoding/soak.py --minutes 10 --no-gc

The model and the SIDs never change, so an item's log-probability after a history is known before:
it is scored once, exactly. A beam that keeps every prefix must then return, of the items that were
in the catalogue and allowed during the whole call, the best; none that was out of it during the
whole call; and each with its own log-probability. A set that is redefined during a call may be
read as it was before or after, but not as a mixture. Memory is sampled every second; its slope
over the second half is reported.
"""

import argparse
import gc
import json
import sys
import threading
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "fixtures"))

from engines import BOS, random_model, random_sids

from store_engine import Engine
from store_engine.config import DecodingConfig
from store_engine.data.catalog import Catalog

NUM_ITEMS, NUM_STABLE, NUM_HISTORIES, K = 300, 200, 16, 12
TOLERANCE = 1e-3  # of a log-probability; batches round differently


class Ledger:
    """What the writer does to each thing: even = at rest, odd = changing; never goes back."""

    def __init__(self, size: int) -> None:
        self.generation = np.zeros(size, dtype=np.int64)
        self.state = np.ones(size, dtype=np.int64)  # at rest: 1 = in, 0 = out; or which definition

    def begin(self, which: list[int]) -> None:
        self.generation[which] += 1

    def end(self, which: list[int], state: int) -> None:
        self.state[which] = state
        self.generation[which] += 1

    def read(self) -> tuple[np.ndarray, np.ndarray]:
        return self.generation.copy(), self.state.copy()


class Soak:
    """The engine, what is true of it, and what was found wrong."""

    def __init__(self, seed: int) -> None:
        self.sids = random_sids(NUM_ITEMS, seed=seed)
        self.ids = [f"item {row}" for row in range(NUM_ITEMS)]
        catalog = Catalog(tuple(self.ids), {"title": tuple(self.ids)})
        config = DecodingConfig(beam_width=NUM_ITEMS, prefix_cache_mib=1, exclude_history=False)
        self.engine = Engine(
            random_model(), catalog, self.sids, bos=BOS, max_history=8, config=config
        )
        rng = np.random.default_rng(seed)
        self.histories = [
            rng.integers(0, NUM_STABLE, rng.integers(0, 8)).tolist() for _ in range(NUM_HISTORIES)
        ]
        self.scores = self.engine.score_rows(self.histories)
        self.items, self.stock = Ledger(NUM_ITEMS), Ledger(1)
        # two definitions that share half of their items
        self.definitions = [set(range(0, NUM_ITEMS, 2)), set(range(0, NUM_ITEMS, 3))]
        self.engine.define("stock", [self.ids[row] for row in sorted(self.definitions[1])])
        self.calls = 0
        self.changes = 0
        self.wrong: list[str] = []
        self.is_over = threading.Event()

    def write(self, seed: int) -> None:
        """Removes volatile items, brings them back, and redefines the set, until it is over."""
        rng = np.random.default_rng(seed)
        while not self.is_over.is_set():
            count = int(rng.integers(1, 20))
            rows = (NUM_STABLE + rng.permutation(NUM_ITEMS - NUM_STABLE)[:count]).tolist()
            present = [row for row in rows if self.items.state[row] == 1]
            absent = [row for row in rows if self.items.state[row] == 0]
            if present:
                self.items.begin(present)
                self.engine.remove_items([self.ids[row] for row in present])
                self.items.end(present, 0)
            if absent:
                ids = tuple(self.ids[row] for row in absent)
                self.items.begin(absent)
                self.engine.add_items(Catalog(ids, {"title": ids}), self.sids[absent])
                self.items.end(absent, 1)
            which = 1 - int(self.stock.state[0])
            self.stock.begin([0])
            self.engine.define("stock", [self.ids[row] for row in self.definitions[which]])
            self.stock.end([0], which)
            self.changes += 3
            time.sleep(0.002)

    def read(self, seed: int) -> None:
        """Recommends and checks, until it is over."""
        rng = np.random.default_rng(seed)
        while not self.is_over.is_set() and not self.wrong:
            which = rng.integers(0, NUM_HISTORIES, 2).tolist()
            histories = [[self.ids[row] for row in self.histories[h]] for h in which]
            allow = "stock" if rng.random() < 0.5 else None
            items_before, stock_before = self.items.read(), self.stock.read()
            found = self.engine.recommend(histories, K, allow=allow)
            items_after, stock_after = self.items.read(), self.stock.read()
            is_still = (items_before[0] == items_after[0]) & (items_before[0] % 2 == 0)
            surely_in = set(np.flatnonzero(is_still & (items_before[1] == 1)).tolist())
            surely_out = set(np.flatnonzero(is_still & (items_before[1] == 0)).tolist())
            allowed = [set(range(NUM_ITEMS))]
            if allow:
                allowed = self.definitions
                if stock_before[0] == stock_after[0] and stock_before[0][0] % 2 == 0:
                    allowed = [self.definitions[int(stock_before[1][0])]]
            for history, answer in zip(which, found, strict=True):
                faults = [self._fault(history, answer, surely_in, surely_out, a) for a in allowed]
                if all(faults):
                    self.wrong.append(f"history {history}, allow {allow}: {faults}")
            self.calls += 1

    def _fault(
        self, history: int, answer: list, surely_in: set, surely_out: set, allowed: set
    ) -> str:
        """What is wrong with an answer under one definition; "" if nothing."""
        rows = [int(item.item_id.split()[1]) for item in answer]
        logprobs = np.array([item.logprob for item in answer])
        want = self.scores[history]
        if len(set(rows)) != len(rows) or (np.diff(logprobs) > 0).any():
            return "an item comes twice, or the order is not descending"
        if set(rows) & surely_out:
            return f"removed items: {set(rows) & surely_out}"
        if set(rows) - allowed:
            return f"items that are not allowed: {set(rows) - allowed}"
        if (np.abs(logprobs - want[rows]) > TOLERANCE).any():
            return "a log-probability is not the item's own"
        best = [row for row in surely_in & allowed if row not in rows]
        last = logprobs[-1] if len(rows) == K else -np.inf
        missed = [row for row in best if want[row] > last + TOLERANCE]
        return f"better items are missing: {missed}" if missed else ""


def resident_mib() -> float:
    """Memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def soak(minutes: float, num_threads: int, seed: int) -> dict:
    """Runs it; returns what happened."""
    torch.set_num_threads(1)
    state = Soak(seed)
    readers = [
        threading.Thread(target=state.read, args=(seed + 1 + i,)) for i in range(num_threads)
    ]
    threads = [*readers, threading.Thread(target=state.write, args=(seed,))]
    for thread in threads:
        thread.start()
    samples, began = [], time.monotonic()
    while time.monotonic() - began < 60 * minutes and not state.wrong:
        time.sleep(min(1.0, 10 * minutes))
        samples.append((time.monotonic() - began, resident_mib()))
    state.is_over.set()
    for thread in threads:
        thread.join()
    half = np.array(samples[len(samples) // 2 :])
    slope = float(np.polyfit(half[:, 0] / 60, half[:, 1], 1)[0]) if len(half) > 2 else float("nan")
    return {
        "calls": state.calls,
        "changes": state.changes,
        "wrong": state.wrong[:3],
        "mib_first": round(samples[0][1], 1),
        "mib_last": round(samples[-1][1], 1),
        "mib_per_minute": round(slope, 3),
        "is_collecting": gc.isenabled(),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-gc", action="store_true", help="without the cycle collector")
    args = parser.parse_args()
    if args.no_gc:
        gc.disable()
    report = soak(args.minutes, args.threads, args.seed)
    print(json.dumps(report))
    sys.exit(bool(report["wrong"]))
