"""Cold start, end to end: new items recommended from their text, without retraining.

    python benchmarks/cold_start.py --dataset beauty --data FOLDER --cold newest:0.02
    python benchmarks/cold_start.py --dataset office --data FOLDER --cold rarest:0.3 \\
        --config configs/presets/ours.toml --set recommender.residual_dropout=0.5 --out cold.jsonl

Some items are held out of the catalogue and of all events (quality/cold_split.py says which); a
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
from pathlib import Path
from typing import Any

# run as a script, only benchmarks/ is on the path
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import ROOT
from benchmarks.measuring.json_rows import append_rows
from benchmarks.quality.cold_figures import K, cold_figures, rows_of, warm_figures
from benchmarks.quality.cold_split import (
    ColdExamples,
    ColdRule,
    cold_examples,
    cold_items,
    read_events,
    write_split,
)
from store_engine.cli.main import VerbParser, guard
from store_engine.cli.tokenize import tokenize_new_items
from store_engine.collaborative.evidence import new_item_votes
from store_engine.config import load_config
from store_engine.data.readers import read_items
from store_engine.data.split import leave_one_out
from store_engine.decoding.engine import Engine
from store_engine.errors import InputError
from store_engine.evaluation.validation import sample_examples
from store_engine.evaluation.weigh_evidence import weigh_new_items
from store_engine.experiments.plan import Trial, Variant
from store_engine.experiments.provenance import commit, machine
from store_engine.experiments.trials import Launch, run_command, train_command
from store_engine.runs.run import Run, load_run

_VALID_USERS = 4000  # that the offset is chosen on
_MAX_EXAMPLES = 2000


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
        "price": 1 - after[f"recall@{K}"] / before[f"recall@{K}"],
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
        append_rows(args.out, [row])
    return 0


if __name__ == "__main__":
    sys.exit(main())
