"""Cold start, end to end: new items recommended from their text, without retraining.

    python benchmarks/cold_start.py --dataset beauty --data FOLDER --cold newest:0.02
    python benchmarks/cold_start.py --dataset office --data FOLDER --cold rarest:0.3 \\
        --config configs/presets/ours.toml --set recommender.residual_dropout=0.5 --out cold.jsonl

Some items are held out of the catalogue and of all events (benchmarks/cold_split.py says which); a
run is trained on the rest by the real entry. Then the items are tokenised from their text, added to
the live engine, and voted for by the items whose text is like theirs. Their offset is the largest
that costs the run's validation users, whose targets are warm, at most 1 % of Recall@10: no event
of a cold item and no test event is looked at for it.

An example is an event of a cold item after two warm ones or more, a fixed sample of at most 2,000.
Measured, history left out: Recall@1 and @10 among the cold items alone and in the full catalogue,
beside nearest neighbours by text (TF-IDF, SVD 128) and chance; and the price, the Recall@10 of the
run's own test before and after. A JSON line goes to --out.
"""

import argparse
import datetime
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# run as a script, only benchmarks/ is on the path
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from numpy.typing import NDArray

from benchmarks import ROOT
from benchmarks.cold_split import (
    ColdExamples,
    ColdRule,
    cold_examples,
    cold_items,
    read_events,
    write_split,
)
from store_engine.cli.main import VerbParser, guard
from store_engine.cli.tokenize import tokenize_new_items
from store_engine.collaborative.co_visits import event_counts
from store_engine.collaborative.evidence import new_item_votes
from store_engine.collaborative.neighbours import recent_events
from store_engine.collaborative.spaces import text_space
from store_engine.config import load_config
from store_engine.data.catalog import Catalog
from store_engine.data.readers import read_items
from store_engine.data.split import Examples, Split, leave_one_out
from store_engine.decoding.engine import Engine
from store_engine.errors import InputError
from store_engine.evaluation.evaluate_run import rank_all
from store_engine.evaluation.metrics import (
    coverage,
    long_tail_share,
    metrics_by_frequency,
    ranking_metrics,
)
from store_engine.evaluation.validation import sample_examples
from store_engine.evaluation.weigh_evidence import weigh_new_items
from store_engine.experiments.plan import Trial, Variant
from store_engine.experiments.provenance import commit, machine
from store_engine.experiments.trials import Launch, run_command, train_command
from store_engine.runs.run import Run, load_run

_VALID_USERS = 4000  # that the offset is chosen on
_MAX_EXAMPLES = 2000
_K = 10
_CUTOFFS = (1, _K)
_SET = "cold"  # the engine's name of the new items
_TEXT_DIM, _DECAY, _RECENT = 128, 0.7, 5  # of nearest neighbours by text

Rankings = NDArray[np.int64]


def train_warm(args: argparse.Namespace, work: Path) -> Path:
    """Trains a run on the warm items, or goes on with it; returns its directory."""
    variant = Variant("warm", "", tuple(map(str, args.config)), tuple(args.set))
    trial = Trial(variant, args.seed, str(ROOT / "configs" / "zero0.json"), "", work / "run")
    log = work / "train.log"
    print(f"training on the warm items, see {log}", file=sys.stderr)
    with log.open("ab") as file:
        command = train_command(trial, Launch(1, str(work / "warm")))
        status = run_command(command, file, lambda: None)
    if status != 0:
        raise InputError(f"the training ended with status {status}: see {log}")
    return trial.run_dir


def rows_of(examples: ColdExamples, item_ids: Sequence[str]) -> Examples:
    """Names the items of examples by their catalogue rows."""
    row = {item: r for r, item in enumerate(item_ids)}
    histories = [np.array([row[i] for i in h], dtype=np.int32) for h in examples.histories]
    return Examples(histories, np.array([row[i] for i in examples.targets], dtype=np.int32))


def text_neighbours(
    catalog: Catalog, histories: Sequence[NDArray[np.int32]]
) -> NDArray[np.float32]:
    """Scores items by their cosine to the decayed last items, in TF-IDF and SVD.

    Args:
        catalog: The full catalogue.
        histories: Catalogue rows of each user, oldest first.

    Returns:
        (num_users, num_items).
    """
    space = text_space(catalog, _TEXT_DIM)
    events = recent_events(histories, catalog.num_items, _DECAY, _RECENT)
    scores: NDArray[np.float32] = ((events @ space) @ space.T).astype(np.float32)
    return scores


def top_rows(
    scores: NDArray[np.float32],
    histories: Sequence[NDArray[np.int32]],
    among: NDArray[np.int64] | None = None,
) -> Rankings:
    """Ranks items by given scores, those of the history left out: (num_users, 10) rows.

    Args:
        scores: (num_users, num_items), not changed.
        histories: Catalogue rows of each user.
        among: The items that compete; None: all.
    """
    allowed = np.full(scores.shape, among is not None)
    if among is not None:
        allowed[:, among] = False
    hidden = np.where(allowed, -np.inf, scores)
    for user, history in enumerate(histories):
        hidden[user, history] = -np.inf
    best = np.argsort(-hidden, axis=1, kind="stable")[:, :_K]
    found: Rankings = np.where(np.take_along_axis(hidden, best, 1) > -np.inf, best, -1)
    return found


def recall(rankings: Rankings, targets: NDArray[np.int32]) -> dict[str, float]:
    """Recall@1 and @10."""
    figures = ranking_metrics(rankings, targets, _CUTOFFS)
    return {name: value for name, value in figures.items() if name.startswith("recall")}


def cold_figures(engine: Engine, examples: Examples, num_warm: int) -> dict[str, Any]:
    """Recalls of the examples among the cold items alone and in the full catalogue.

    Args:
        engine: With the cold items, from row `num_warm` on.
        examples: By the engine's rows.
        num_warm: Items before them.
    """
    catalog = engine.catalog
    cold = np.arange(num_warm, catalog.num_items)
    engine.define(_SET, [catalog.item_ids[row] for row in cold])
    histories, targets = examples.histories, examples.targets
    width = max(_K, engine.config.beam_width)
    near = text_neighbours(catalog, histories)
    among, _ = engine.recommend_rows(
        histories, min(_K, len(cold)), allow=_SET, exclude_history=True, beam_width=width
    )
    full, _ = engine.recommend_rows(histories, _K, exclude_history=True, beam_width=width)
    return {
        "num_examples": len(targets),
        "among_cold": {
            "ours": recall(_padded(among), targets),
            "text_neighbours": recall(top_rows(near, histories, cold), targets),
            "random": {f"recall@{k}": min(1.0, k / len(cold)) for k in _CUTOFFS},
        },
        "full_catalogue": {
            "ours": recall(full, targets),
            "text_neighbours": recall(top_rows(near, histories), targets),
            "random": {f"recall@{k}": k / catalog.num_items for k in _CUTOFFS},
        },
    }


def _padded(rankings: Rankings) -> Rankings:
    return np.pad(rankings, ((0, 0), (0, _K - rankings.shape[1])), constant_values=-1)


def warm_figures(engine: Engine, split: Split, num_warm: int) -> dict[str, Any]:
    """Figures of the run's own test: recalls, by the target's frequency, and what is shown."""
    rankings = rank_all(engine, split.test, _K, exclude_history=True)
    frequency = event_counts(split.train, num_warm)
    padded = np.pad(frequency, (0, engine.catalog.num_items - num_warm))
    targets = split.test.targets
    buckets = metrics_by_frequency(rankings, targets, padded, _CUTOFFS)
    return {
        **recall(rankings, targets),
        f"share_of_cold@{_K}": float((rankings >= num_warm).mean()),
        f"coverage@{_K}": coverage(rankings, engine.catalog.num_items, _K),
        f"long_tail_share@{_K}": long_tail_share(rankings, padded, _K),
        "buckets": {name: bucket.get(f"recall@{_K}") for name, bucket in buckets.items()},
    }


def measure(run: Run, cold_file: Path, examples: ColdExamples) -> dict[str, Any]:
    """Adds the cold items to a run's engine, and measures before and after.

    Args:
        run: Trained on the warm items.
        cold_file: The cold items, with the columns of the run's catalogue.
        examples: Events of cold items.
    """
    num_warm, seed = run.catalog.num_items, run.config.train.seed
    split = leave_one_out(run.histories)
    cold, new = tokenize_new_items(run, cold_file)
    engine = Engine.load(run, dtype="float32", prefix_cache_mib=0.0, journal=False)
    before = warm_figures(engine, split, num_warm)
    engine.add_items(cold, new.sids, new.features)
    own = rows_of(examples, engine.catalog.item_ids)
    without = cold_figures(engine, own, num_warm)
    votes = new_item_votes(engine.catalog, num_warm, seed)
    valid = sample_examples(split.valid, _VALID_USERS, seed)
    offset = weigh_new_items(engine, votes, valid)
    after = warm_figures(engine, split, num_warm)
    return {
        "num_cold": engine.catalog.num_items - num_warm,
        "num_warm": num_warm,
        "offset": offset,
        **cold_figures(engine, own, num_warm),
        "without_votes": {name: without[name]["ours"] for name in ("among_cold", "full_catalogue")},
        "warm_before": before,
        "warm_after": after,
        "price": 1 - after[f"recall@{_K}"] / before[f"recall@{_K}"],
    }


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = VerbParser("cold_start", __doc__ or "")
    parser.prog = "python benchmarks/cold_start.py"
    parser.add_argument("--dataset", required=True, help="its config: configs/NAME.toml")
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="csv files")
    parser.add_argument("--cold", required=True, metavar="RULE:SHARE")
    parser.add_argument(
        "--config",
        action="append",
        metavar="FILE",
        help="stands behind the data set's; default configs/presets/ours.toml",
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, metavar="FOLDER", help="default runs/cold/...")
    parser.add_argument("--out", type=Path, metavar="FILE", help="takes one JSON line")
    args = parser.parse_args(argv)
    return guard(lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    args.cold = ColdRule.parse(args.cold)
    preset = args.config or [ROOT / "configs" / "presets" / "ours.toml"]
    args.config = [ROOT / "configs" / f"{args.dataset}.toml", *preset]
    args.set = ["train.refit=false", *args.set]  # validation users choose the offset afterwards
    data = load_config(args.config, args.set).data
    name = f"{args.dataset}-{args.cold.name}-{args.cold.share}-seed{args.seed}"
    work = args.work or ROOT / "runs" / "cold" / name
    events = read_events(args.data, data)
    catalog = read_items(args.data / data.items, data.item_id, data.text_fields)
    cold = cold_items(events, list(catalog.item_ids), args.cold, args.seed)
    write_split(args.data, work, data, cold)
    examples = cold_examples(events, cold, _MAX_EXAMPLES, args.seed)
    if not examples.targets:
        raise InputError("no cold item was chosen after two warm ones")
    run = load_run(train_warm(args, work))
    row = {
        "dataset": args.dataset,
        "cold": f"{args.cold.name}:{args.cold.share}",
        "seed": args.seed,
        "set": args.set,
        **measure(run, work / "cold_items.csv", examples),
        "date": datetime.date.today().isoformat(),
        "commit": commit(),
        "machine": machine("cpu"),
    }
    print(json.dumps(row, indent=2))
    if args.out is not None:
        with args.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
