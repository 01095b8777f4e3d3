"""Tomorrow's data: `train --from RUN` beside a training from the start, on the same data.

    python benchmarks/warm_start.py --dataset office --data FOLDER
    python benchmarks/warm_start.py --dataset beauty --data FOLDER --share 0.2 --new-items 0.05 \\
        --config configs/presets/ours.toml --out warm.jsonl

The newest items and the last part of every history are cut off (a history also from its first new
item on), and a run is trained on what is left: yesterday's. Then, on all data:

    as it is   yesterday's run with the new items, their SIDs and the new events' evidence, not
               trained (`--from`, recommender.epochs=0)
    warm       `--from`, as many epochs as it chooses by itself, or --epochs
    anew       trained from the start

All three are measured on the same test users, by `evaluate_run`, under the run's own rule. Beside
Recall@10 and NDCG@10: steps of both stages, minutes, and the processor's minutes of the whole
process, which other processes on the machine do not change.
"""

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# run as a script, only benchmarks/ is on the path
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from benchmarks import ROOT
from benchmarks.measuring.harness import print_table
from benchmarks.measuring.json_rows import append_rows
from benchmarks.quality.cold_split import (
    ColdRule,
    Events,
    cold_items,
    read_csv,
    read_events,
    write_csv,
)
from store_engine.cli.main import VerbParser, guard
from store_engine.config import DataConfig, load_config
from store_engine.errors import InputError
from store_engine.experiments.provenance import commit, machine
from store_engine.files.json_file import read_json

_METRICS = ("recall@10", "ndcg@10")


def cut(events: Events, new_items: set[str], share: float) -> list[int]:
    """Chooses the events of yesterday: every history without its last part.

    Args:
        events: All events.
        new_items: Items that did not exist; a history ends before its first one.
        share: Of a history's events that are cut off, at least one.

    Returns:
        Positions in the file, ascending.
    """
    of_user: dict[str, list[int]] = {}
    for event in np.lexsort([events.times]).tolist():  # stable: of one time the file's order
        of_user.setdefault(events.users[event], []).append(event)
    kept: list[int] = []
    for own in of_user.values():
        end = len(own) - max(1, round(share * len(own)))
        first = next((n for n, e in enumerate(own) if events.items[e] in new_items), len(own))
        kept += own[: min(end, first)]
    return sorted(kept)


def write_yesterday(
    folder: Path, out: Path, data: DataConfig, args: argparse.Namespace
) -> dict[str, int]:
    """Writes yesterday's items and events; says how many of all are new."""
    events = read_events(folder, data)
    items = read_csv(folder / data.items, data.item_id)
    ids = [row[data.item_id] for row in items]
    new = cold_items(events, ids, ColdRule("newest", args.new_items), args.seed)
    kept = cut(events, new, args.share)
    rows = read_csv(folder / data.interactions, data.item_id)
    out.mkdir(parents=True, exist_ok=True)
    write_csv(out / data.items, [row for row in items if row[data.item_id] not in new])
    write_csv(out / data.interactions, [rows[event] for event in kept])
    return {"new_items": len(new), "new_events": len(rows) - len(kept), "events": len(rows)}


def train(run_dir: Path, *arguments: str) -> dict[str, Any]:
    """Trains a run in a process of its own, and measures it."""
    script = ROOT / "store_engine" / "train.py"
    ds_config = ROOT / "configs" / "zero0.json"
    command = [sys.executable, str(script), "--ds_config", str(ds_config), *arguments]
    command.append(f"run_dir={run_dir}")
    log = run_dir.with_suffix(".log")
    print(f"{run_dir.name}: see {log}", file=sys.stderr, flush=True)
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    with log.open("ab") as file:
        status = subprocess.run(command, stdout=file, stderr=file, cwd=ROOT).returncode
    if status != 0:
        raise InputError(f"the training ended with status {status}: see {log}")
    after, wall_s = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - began
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    metrics = read_json(run_dir / "metrics.json")
    own = metrics["protocols"][metrics["primary"]]
    alone = own["baselines"].get("llm_alone", own["metrics"])
    return {
        **{name: own["metrics"][name] for name in _METRICS},
        **{f"llm_alone_{name}": alone[name] for name in _METRICS},
        "standard_error": own["standard_errors"].get("recall@10"),
        "num_users": metrics["num_users"],
        "steps": {stage: of["num_steps"] for stage, of in metrics["train"].items()},
        "minutes": wall_s / 60,
        "cpu_minutes": cpu_s / 60,
    }


def measure(args: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Does all trainings; returns the line for --out."""
    configs = [str(path) for path in args.config]
    data = load_config(configs).data
    counts = write_yesterday(args.data, work / "yesterday_data", data, args)
    fresh = [part for path in configs for part in ("--config", path)]
    options = [*args.set, f"train.seed={args.seed}"]
    old, today = work / "yesterday", ["--data", str(args.data)]
    found = {"yesterday": train(old, *fresh, "--data", str(work / "yesterday_data"), *options)}
    again = ["--from", str(old), *today]
    epochs = [] if args.epochs is None else [f"recommender.epochs={args.epochs}"]
    warm = [*epochs, *args.warm_set]
    found["as it is"] = train(work / "as_it_is", *again, "recommender.epochs=0")
    found["warm"] = train(work / "warm", *again, *warm)
    found["anew"] = train(work / "anew", *fresh, *today, *options)
    return {
        "dataset": args.dataset,
        "config": configs,
        "set": options,
        "warm_set": warm,
        "share": args.share,
        **counts,
        **found,
        "machine": machine(),
        "commit": commit(),
    }


def show(found: dict[str, Any]) -> None:
    """Prints the table."""
    print(
        f"{found['dataset']}: {found['new_items']:,} new items, {found['new_events']:,} of "
        f"{found['events']:,} events new; {found['machine']}, commit {found['commit']}"
    )
    rows = []
    for name in ("yesterday", "as it is", "warm", "anew"):
        of = found[name]
        figures = [f"{of[metric]:.4f}" for metric in _METRICS]
        figures += [f"{of[f'llm_alone_{metric}']:.4f}" for metric in _METRICS]
        steps = sum(of["steps"].values())
        rows.append([name, *figures, steps, f"{of['minutes']:.1f}", f"{of['cpu_minutes']:.1f}"])
    header = ("", "R@10", "N@10", "LLM R@10", "LLM N@10", "steps", "minutes", "CPU minutes")
    print_table(header, rows)
    print("yesterday's figures are of yesterday's test, the others of today's")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = VerbParser("warm_start", __doc__ or "")
    parser.prog = "warm_start.py"
    parser.add_argument("--dataset", required=True, help="configs/NAME.toml, with csv files")
    parser.add_argument("--data", type=Path, required=True, help="folder of the data")
    parser.add_argument(
        "--config",
        type=Path,
        action="append",
        help="more of them (default configs/presets/ours.toml)",
    )
    parser.add_argument("--set", nargs="+", default=[], metavar="section.key=value")
    parser.add_argument("--warm-set", nargs="+", default=[], metavar="section.key=value")
    parser.add_argument("--epochs", type=int, help="of the warm run")
    parser.add_argument("--share", type=float, default=0.1, help="of every history, cut off")
    parser.add_argument("--new-items", type=float, default=0.03, help="share of the items")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, required=True, help="empty folder for data and runs")
    parser.add_argument("--out", type=Path, metavar="FILE.jsonl", help="append a line")
    args = parser.parse_args(argv)
    own = args.config or [ROOT / "configs" / "presets" / "ours.toml"]
    args.config = [ROOT / "configs" / f"{args.dataset}.toml", *own]

    def status() -> int:
        if not 0 < args.share < 1:
            raise InputError(f"--share must be between 0 and 1, got {args.share}")
        found = measure(args, args.work)
        show(found)
        if args.out is not None:
            append_rows(args.out, [found])
        return 0

    return guard(status)


if __name__ == "__main__":
    sys.exit(main())
