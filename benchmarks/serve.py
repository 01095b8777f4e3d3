"""A server under load beside direct calls of the engine, and whether every answer is right.

    python benchmarks/serve.py --run runs/ml100k                           # 20 s a case
    python benchmarks/serve.py --run runs/ml100k --seconds 600 --kills 2   # replicas are killed
    python benchmarks/serve.py --run runs/ml100k --quick --cases quiet

Needs store-engine[serve] and locust. The run is copied, so that its journal stays as it is.
Providers:
    direct    Engine.recommend in one process, batches as large as the server's, the threads of all
              replicas: what the same cores give without HTTP
    served    `store-engine serve` under clients who never pause (benchmarks/serving/load.py)
They are measured in turn, direct, served, direct, while the same server runs; a share_of_direct is
of the mean of the two beside it. Cases: "quiet", in several rounds; "batches", the same with 32
questions a request; and "changes", where items leave, come back and get other texts and users click
all the time, half of the questions are by user, and --kills replicas are killed, evenly spread.
Rates are of questions. On a machine that has else to do a share tells little: direct is one
process, served are three.

Afterwards serving/check.py compares every distinct answer with that of an engine which is
brought through the journal change by change, and looks for every acknowledged change. A failed
request, a wrong answer, one that lacks a change which all replicas were said to have, or a lost
change ends the program with status 1.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

# run as a script, only benchmarks/ is on the path, whose kernels.py must not hide a package's
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import ROOT
from benchmarks.measuring.harness import Options, Quantiles, Report, parse_options
from benchmarks.serving.check import Checked, check
from benchmarks.serving.server import MAX_BATCH, a_replica, server
from benchmarks.serving.work import ROUNDS, K, Work, histories_of, make_work
from store_engine.decoding.engine import Engine

DIRECT_S = 20.0  # of a direct measurement at most


class Measured(NamedTuple):
    """One case."""

    direct: list[float]  # requests per second before each round and after the last
    rounds: list[dict[str, Any]]  # what the clients found
    retries: float  # batches that went to another replica

    @property
    def shares(self) -> list[float]:
        """Served as a share of direct, by round."""
        beside = zip(self.direct, self.direct[1:], strict=False)
        return [
            one["per_s"] / ((before + after) / 2)
            for one, (before, after) in zip(self.rounds, beside, strict=True)
        ]


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that this benchmark adds."""
    parser.add_argument("--run", type=Path, required=True, metavar="RUN")
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument(
        "--clients", type=int, default=2 * MAX_BATCH, help="questions at once (default 256)"
    )
    parser.add_argument("--seconds", type=float, default=20.0, help="of each case (default 20)")
    parser.add_argument("--changes-per-s", type=float, default=5.0)
    parser.add_argument("--kills", type=int, default=0, help="replicas to kill in 'changes'")


def main() -> None:
    """Measures all cases, then checks what was answered."""
    options = parse_options("serve", __doc__, add_options, has_gpu=False)
    report, problems = Report("serve", options), []
    torch.set_num_threads(options.threads * options.extra.replicas)
    for case in filter(options.wants, ROUNDS):
        with tempfile.TemporaryDirectory() as folder:
            run_dir = Path(folder) / "run"
            shutil.copytree(options.extra.run, run_dir)
            work = make_work(options, run_dir, case)
            measured = measure(options, run_dir, work, case)
            checked = check(run_dir, work, measured.rounds)
        add_rows(report, case, measured, checked)
        problems += [f"{case}: {one}" for one in checked.problems]
    report.finish()
    for problem in problems[:20]:
        print(problem, file=sys.stderr)
    sys.exit(1 if problems else 0)


def measure(options: Options, run_dir: Path, work: Work, case: str) -> Measured:
    """Measures both in turn."""
    direct, kills = Direct(run_dir, work), options.extra.kills if case == "changes" else 0
    with server(options, run_dir) as host:
        per_s, rounds = [direct.per_s(work["seconds"])], []
        for _ in range(ROUNDS[case]):
            rounds.append(load(host, work, kills))
            per_s.append(direct.per_s(work["seconds"]))
        with urllib.request.urlopen(f"{host}/metrics") as answer:
            lines = answer.read().decode().splitlines()
    (retries,) = (one for one in lines if one.startswith("store_engine_retries_total"))
    return Measured(per_s, rounds, float(retries.split()[1]))


class Direct:
    """Direct calls, one after another, each a full batch of questions drawn as the clients do."""

    def __init__(self, run_dir: Path, work: Work) -> None:
        self._engine = Engine.load(run_dir, journal=False)
        self._histories = histories_of(run_dir, work["questions"])
        self._rng = np.random.default_rng(1)

    def per_s(self, seconds: float) -> float:
        """Requests per second, after a warm-up."""
        self._call()
        began, num = time.perf_counter(), 0
        while time.perf_counter() < began + min(seconds, DIRECT_S):
            num += self._call()
        return num / (time.perf_counter() - began)

    def _call(self) -> int:
        drawn = self._rng.integers(len(self._histories), size=MAX_BATCH)
        return len(self._engine.recommend([self._histories[i] for i in drawn], K))


def load(host: str, work: Work, kills: int) -> dict[str, Any]:
    """Lets the clients loose on a server, and kills replicas meanwhile; returns what they found."""
    with tempfile.TemporaryDirectory() as folder:
        asked, told = Path(folder) / "work.json", Path(folder) / "out.json"
        asked.write_text(json.dumps(work))
        script = str(ROOT / "benchmarks" / "serving" / "load.py")
        command = [sys.executable, script, "--host", host, "--work", str(asked)]
        clients = subprocess.Popen([*command, "--out", str(told)])
        time.sleep(work["warm_up_s"])
        for _ in range(kills):
            time.sleep(work["seconds"] / (kills + 1))
            os.kill(a_replica(), signal.SIGKILL)
        if clients.wait(work["seconds"] + 300) != 0:
            raise RuntimeError("the clients failed")
        result: dict[str, Any] = json.loads(told.read_text())
        return result


def add_rows(report: Report, case: str, measured: Measured, checked: Checked) -> None:
    """Reports what was measured and what was checked."""
    report.add("direct", case, "mean_per_s", "requests/s", Quantiles.of(measured.direct))
    rounds = measured.rounds
    report.add(
        "served", case, "mean_per_s", "requests/s", Quantiles.of([one["per_s"] for one in rounds])
    )
    report.add("served", case, "share_of_direct", "x", Quantiles.of(measured.shares))
    for name in ("p50_ms", "p99_ms"):
        report.add("served", case, name, "ms", Quantiles.of([one[name] for one in rounds]))
    report.add("served", case, "requests", "", sum(one["requests"] for one in rounds))
    report.add("served", case, "retries", "", measured.retries)
    for name, count in checked.counts.items():
        report.add("served", case, name, "", count)


if __name__ == "__main__":
    main()
