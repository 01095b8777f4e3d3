"""A finished run, measured: item-level metrics over all items, beside training-free floors."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import track
from rich.table import Table

from store_engine.data.split import Examples, leave_one_out
from store_engine.decoding.engine import Engine
from store_engine.evaluation.baselines import co_visitation, popularity, train_frequency
from store_engine.evaluation.metrics import (
    coverage,
    long_tail_share,
    metrics_by_frequency,
    ranking_metrics,
)
from store_engine.evaluation.scoring import Scorer, measure_scoring
from store_engine.files.atomic import atomic_open
from store_engine.runs.run import load_run
from store_engine.sid.collisions import sid_report
from store_engine.training.log import read_log

_USERS_PER_CALL = 512  # between two ticks of the progress bar


def evaluate_run(run_dir: Path, *, exact: bool = False) -> dict[str, Any]:
    """Measures a run on its test questions.

    Args:
        run_dir: A finished run.
        exact: Score the whole catalogue instead of searching with a beam.

    Returns:
        What metrics.json holds; docs/run-directory.md lists it.

    Raises:
        InputError: The directory is missing, unfinished or damaged.
    """
    # float32, so that figures do not depend on the machine; every user comes once
    loaded = load_run(run_dir)
    engine = Engine.load(loaded, dtype="float32", prefix_cache_mib=0)
    histories, table, run = loaded.histories, loaded.sid_table, loaded.config
    split = leave_one_out(histories)
    frequency = train_frequency(split.train, engine.catalog.num_items)
    targets, max_k = split.test.targets, run.eval.max_k

    began = time.perf_counter()
    rankings = rank_all(engine, split.test, max_k, exact)
    wall_s = time.perf_counter() - began

    seen = split.test.histories
    floors = {
        "popularity": popularity(split.train, len(frequency), seen, max_k),
        "co_visitation": co_visitation(split.train, len(frequency), seen, max_k),
    }
    scoring = {}
    if loaded.has_scoring:
        scoring = {"scoring": measure_scoring(Scorer(loaded), split.test, len(frequency))}
    return {
        "protocol": split.protocol,
        "dataset": loaded.dataset,
        "num_users": histories.num_users,
        "num_items": engine.catalog.num_items,
        "seed": run.train.seed,
        "decoding": "exact" if exact else f"beam {run.decoding.beam_width}",
        "metrics": ranking_metrics(rankings, targets)
        | {
            "coverage@10": coverage(rankings, len(frequency)),
            "long_tail_share@10": long_tail_share(rankings, frequency),
        },
        "baselines": {name: ranking_metrics(floor, targets) for name, floor in floors.items()},
        "buckets": metrics_by_frequency(rankings, targets, frequency),
        **scoring,
        "sid": sid_report(table.sids, table.codebook_sizes, run.tokenizer.num_codes),
        "invalid_items": int(((rankings < -1) | (rankings >= len(frequency))).sum()),
        "missing_items": int((rankings == -1).sum()),
        "requests_per_s": len(targets) / wall_s,
        "train": training_summary(loaded.directory.log),
    }


def rank_all(engine: Engine, examples: Examples, k: int, exact: bool) -> NDArray[np.int64]:
    """Recommends to every user: (num_users, k) catalogue rows. The targets are never read.

    Items that share a SID have one score; their order is drawn, with a fixed seed, so that a hit
    within a group of g items is worth 1 / g of a hit on the group.
    """
    spare = _largest_group(engine.sids) - 1
    rng = np.random.default_rng(0)
    histories = sorted(range(len(examples.histories)), key=lambda u: len(examples.histories[u]))
    rankings = np.empty((len(histories), k), dtype=np.int64)
    starts = range(0, len(histories), _USERS_PER_CALL)
    for begin in track(starts, "evaluation", transient=True):
        users = histories[begin : begin + _USERS_PER_CALL]
        wanted = [examples.histories[user] for user in users]
        rows, logprobs = engine.recommend_rows(wanted, k + spare, exact=exact)
        if spare:
            order = np.lexsort((rng.random(rows.shape), -logprobs))
            rows = np.take_along_axis(rows, order, axis=1)
        rankings[users] = rows[:, :k]
    return rankings


def _largest_group(sids: NDArray[np.int32]) -> int:
    return int(np.unique(sids, axis=0, return_counts=True)[1].max())


def training_summary(log_path: Path) -> dict[str, dict[str, float]]:
    """Per stage: its steps, seconds spent in them, real tokens per second and last loss."""
    summary: dict[str, dict[str, float]] = {}
    entries = read_log(log_path)
    for stage in dict.fromkeys(entry["stage"] for entry in entries):
        own = [entry for entry in entries if entry["stage"] == stage]
        wall_s = sum(entry["wall_s"] for entry in own)
        summary[stage] = {
            "num_steps": len(own),
            "wall_s": wall_s,
            "tokens_per_s": sum(entry["tokens_per_s"] * entry["wall_s"] for entry in own) / wall_s,
            "final_loss": own[-1]["loss"],
        }
    return summary


def save_metrics(metrics: dict[str, Any], path: Path) -> None:
    """Writes metrics.json, which either stands complete or not at all."""
    with atomic_open(path) as file:
        file.write(json.dumps(metrics, indent=1).encode() + b"\n")


def print_metrics(metrics: dict[str, Any], console: Console) -> None:
    """Prints the result beside the floors, and by the target's training frequency."""
    # recall@1 is ndcg@1 too
    heads = [f"recall@{k}" for k in (1, 5, 10, 20)] + [f"ndcg@{k}" for k in (5, 10)] + ["mrr"]
    title = (
        f"{metrics['dataset']}, {metrics['protocol']}, {metrics['num_users']:,} users, "
        f"{metrics['num_items']:,} items, {metrics['decoding']}"
    )
    table = Table(title=title, box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True)
    for name in heads:
        short = name.replace("recall", "R").replace("ndcg", "N").replace("mrr", "MRR")
        table.add_column(short, justify="right", no_wrap=True)
    rows = metrics["baselines"] | {"store_engine": metrics["metrics"]}
    for name, values in rows.items():
        table.add_row(name.replace("co_v", "co-v"), *(f"{values[h]:.4f}" for h in heads))
    table.add_section()
    for bucket, values in metrics["buckets"].items():
        if values["num_users"]:
            label = f"seen {bucket} ({values['num_users']:.0f})"
            table.add_row(label, *(f"{values[h]:.4f}" for h in heads))
    table.caption = "below: by how often the target is in training (number of users)"
    console.print(table)
    if "scoring" in metrics:
        figures = "  ".join(f"{name} {value:.4f}" for name, value in metrics["scoring"].items())
        console.print(f"scoring, one random item beside each target: {figures}", highlight=False)
