"""A server under load beside direct calls of the engine, and whether every answer is right.

    python benchmarks/serve.py --run runs/ml100k                           # 20 s a case
    python benchmarks/serve.py --run runs/ml100k --seconds 600 --kills 2   # replicas are killed
    python benchmarks/serve.py --run runs/ml100k --quick --cases quiet

Needs store-engine[serve] and locust. The run is copied, so that its journal stays as it is.
Providers:
    direct    Engine.recommend in one process, batches as large as the server's, the threads of all
              replicas: what the same cores give without HTTP
    served    `store-engine serve` under users who never pause (benchmarks/serve_load.py)
Cases: "quiet", and "changes", where items leave the catalogue and come back all the time. With
--kills a replica is killed as often, evenly spread over "changes".

Afterwards every distinct answer is compared with that of an engine of this process, which is
brought through the journal change by change, and every acknowledged change is looked for in the
journal. A failed request, a wrong answer or a lost change ends the program with status 1.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

# run as a script, only benchmarks/ is on the path, whose kernels.py must not hide a package's
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.harness import ROOT, Options, Quantiles, Report, parse_options
from store_engine.decoding.engine import Engine
from store_engine.live.changes import ItemsAdded, ItemsRemoved
from store_engine.live.journal import Journal
from store_engine.runs.run import load_run
from store_engine.serving.owner import Letter
from store_engine.serving.service import EngineService, Found, Query

K, BATCH = 10, 32
NUM_QUESTIONS = {"quiet": 5000, "changes": 64}  # few, where every answer is kept by its change
TOLERANCE = 1e-4
_REPLICA = b"SERVE_REPLICA::store_engine#engines", b"ray::ServeReplica:store_engine:engines"

Work = dict[str, Any]


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that this benchmark adds."""
    parser.add_argument("--run", type=Path, required=True, metavar="RUN")
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--users", type=int, default=4 * BATCH, help="at once (default 128)")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each case (default 20)")
    parser.add_argument("--changes-per-s", type=float, default=5.0)
    parser.add_argument("--kills", type=int, default=0, help="replicas to kill in 'changes'")


def main() -> None:
    """Measures both, then checks what was answered."""
    options = parse_options("serve", __doc__, add_options)
    report, problems = Report("serve", options), []
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder) / "run"
        shutil.copytree(options.extra.run, run_dir)
        measure_direct(report, options, run_dir)
        for case in NUM_QUESTIONS:
            if options.wants(case):
                work = make_work(options, run_dir, case)
                result = load(options, run_dir, work, case)
                add_rows(report, options, case, result)
                problems += [f"{case}: {one}" for one in check(run_dir, work, result)]
    report.finish()
    for problem in problems[:20]:
        print(problem, file=sys.stderr)
    sys.exit(1 if problems else 0)


def seconds_of(options: Options) -> float:
    """How long a case takes."""
    seconds: float = options.extra.seconds
    return min(seconds, 5.0) if options.quick else seconds


def questions(run_dir: Path, count: int) -> list[list[str]]:
    """Histories to ask with: the ends of the run's own, cut at random."""
    run, rng = load_run(run_dir), np.random.default_rng(0)
    ids, histories, found = run.catalog.item_ids, run.histories, []
    for _ in range(count):
        rows = histories[int(rng.integers(histories.num_users))]
        found.append([ids[row] for row in rows[: rng.integers(len(rows) + 1)][-50:]])
    return found


def make_work(options: Options, run_dir: Path, case: str) -> Work:
    """What the clients do."""
    catalog = load_run(run_dir).catalog
    items = [
        (item_id, {name: texts[row] for name, texts in catalog.fields.items()})
        for row, item_id in enumerate(catalog.item_ids[:200])
    ]
    return {
        "histories": questions(run_dir, NUM_QUESTIONS[case]),
        "items": items,
        "k": K,
        "users": options.extra.users,
        "seconds": seconds_of(options),
        "warm_up_s": 1.0 if options.quick else 5.0,
        "changes_per_s": options.extra.changes_per_s if case == "changes" else 0,
    }


def measure_direct(report: Report, options: Options, run_dir: Path) -> None:
    """Direct calls, one after another, each a full batch."""
    import torch

    torch.set_num_threads(options.threads * options.extra.replicas)
    engine = Engine.load(run_dir, journal=False)
    asked = questions(run_dir, NUM_QUESTIONS["quiet"])
    walls: list[float] = []
    engine.recommend(asked[:BATCH], K)
    end = time.perf_counter() + seconds_of(options)
    while (began := time.perf_counter()) < end:
        begin = len(walls) * BATCH % (len(asked) - BATCH)
        engine.recommend(asked[begin : begin + BATCH], K)
        walls.append(time.perf_counter() - began)
    per_s = [float(BATCH / np.quantile(walls, q)) for q in (0.8, 0.5, 0.2)]
    for case in NUM_QUESTIONS:
        if options.wants(case):
            report.add("direct", case, "per_s", "requests/s", Quantiles(*per_s))
            report.add("direct", case, "mean_per_s", "requests/s", BATCH / float(np.mean(walls)))


@contextmanager
def server(options: Options, run_dir: Path) -> Iterator[str]:
    """Runs `store-engine serve`; gives its address.

    Raises:
        RuntimeError: It did not start, or did not end as it should.
    """
    command = [sys.executable, "-m", "store_engine", "serve", str(run_dir), "--port", "0"]
    command += ["--threads", str(options.threads), "--replicas", str(options.extra.replicas)]
    command += ["--max-batch", str(BATCH), "--max-waiting", "4096", "--timeout-s", "60"]
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(options.threads)}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env)
    assert process.stderr is not None
    try:
        said = []
        for line in process.stderr:
            said.append(line)
            if line.startswith("serving at "):
                break
        else:
            raise RuntimeError("the server did not start: " + "".join(said[-20:]))
        threading.Thread(target=process.stderr.read, daemon=True).start()
        yield line.split()[2].rstrip(",")
    finally:
        process.terminate()
        if process.wait(120) != 0:
            raise RuntimeError(f"the server ended with status {process.returncode}")


def load(options: Options, run_dir: Path, work: Work, case: str) -> dict[str, Any]:
    """Lets the clients loose on a server; returns what they found."""
    with tempfile.TemporaryDirectory() as folder, server(options, run_dir) as host:
        asked, told = Path(folder) / "work.json", Path(folder) / "out.json"
        asked.write_text(json.dumps(work))
        script = str(ROOT / "benchmarks" / "serve_load.py")
        command = [sys.executable, script, "--host", host, "--work", str(asked)]
        clients = subprocess.Popen([*command, "--out", str(told)])
        kills = options.extra.kills if case == "changes" else 0
        time.sleep(work["warm_up_s"])
        for _ in range(kills):
            time.sleep(work["seconds"] / (kills + 1))
            os.kill(a_replica(), signal.SIGKILL)
        if clients.wait(work["seconds"] + 300) != 0:
            raise RuntimeError("the clients failed")
        result: dict[str, Any] = json.loads(told.read_text())
        with urllib.request.urlopen(f"{host}/metrics") as answer:
            text = answer.read().decode()
        lines = [
            line for line in text.splitlines() if line.startswith("store_engine_retries_total")
        ]
        return result | {"retries": float(lines[0].split()[1])}


def a_replica() -> int:
    """The process id of an engine's replica."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            name = path.read_bytes()
        except OSError:
            continue
        if any(one in name for one in _REPLICA):
            return int(path.parent.name)
    raise RuntimeError("there is no replica to kill")


def add_rows(report: Report, options: Options, case: str, result: dict[str, Any]) -> None:
    """Reports what the clients found."""
    report.add("served", case, "mean_per_s", "requests/s", result["per_s"])
    for name in ("p50_ms", "p99_ms"):
        report.add("served", case, name, "ms", result[name])
    for name in ("requests", "retries"):
        report.add("served", case, name, "", result[name])
    report.add("served", case, "failed", "", len(result["failures"]))
    (direct,) = (
        row["p50"]
        for row in report.rows
        if (row["provider"], row["case"], row["metric"]) == ("direct", case, "mean_per_s")
    )
    report.add("served", case, "share_of_direct", "x", result["per_s"] / float(direct))


def check(run_dir: Path, work: Work, result: dict[str, Any]) -> list[str]:
    """Compares every answer with an engine's that has the same changes; says what is wrong."""
    problems = [f"failed: {one}" for one in result["failures"]]
    if result["num_differing"]:
        problems.append(f"{result['num_differing']} answers differ from the same one before")
    changes = {change.sequence: change.what for change in Journal.open(run_dir).since(0)}
    for sequence, path, item_id in result["acknowledged"]:
        match changes.get(sequence):
            case ItemsAdded(items) if path == "/v1/items" and item_id in items.item_ids:
                pass
            case ItemsRemoved(ids) if path == "/v1/items/remove" and item_id in ids:
                pass
            case _:
                problems.append(f"change {sequence} ({path} {item_id}) is lost")
    by_sequence = defaultdict(list)
    for number, sequence, items in result["answers"]:
        by_sequence[sequence].append((number, items))
    problems += wrong_answers(run_dir, work, by_sequence)
    num = sum(map(len, by_sequence.values()))
    print(f"checked {num} answers at {len(by_sequence)} states of the catalogue", file=sys.stderr)
    return problems


def wrong_answers(
    run_dir: Path, work: Work, by_sequence: dict[int, list[tuple[int, list[Any]]]]
) -> Iterator[str]:
    """Goes through the journal change by change; tells of answers that are not the engine's."""
    service = EngineService(Engine.load(run_dir, journal=False), "truth", 0)
    journal = Journal.open(run_dir)
    for sequence in sorted(by_sequence):
        for change in journal.since(service.sequence):
            if change.sequence > sequence:
                break
            service.apply(Letter.of(service.sequence, change.sequence, [change]))
        answers = by_sequence[sequence]
        queries = [Query(tuple(work["histories"][number]), K + 5) for number, _ in answers]
        for (number, items), truth in zip(answers, service.answer(queries), strict=True):
            if not isinstance(truth, Found) or not is_right(items, truth):
                yield f"wrong answer to history {number} at change {sequence}: {items}"


def is_right(items: list[Any], truth: Found) -> bool:
    """Whether a ranking is the engine's, but for rounding and the order of what it makes equal."""
    scores = {item_id: score for item_id, score, _ in truth.items}
    best = [score for _, score, _ in truth.items][:K]
    if len(items) != len(best):
        return False
    return all(
        abs(scores.get(item_id, np.inf) - score) < TOLERANCE and abs(score - want) < TOLERANCE
        for (item_id, score), want in zip(items, best, strict=True)
    )


if __name__ == "__main__":
    main()
