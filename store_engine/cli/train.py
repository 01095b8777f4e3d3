"""Trains the one LLM: text -> dense tokens -> codes -> recommendations, then measures it.

store-engine train --ds_config configs/zero3.json
store-engine train --ds_config configs/zero3.json --config configs/tiny.toml run_dir=runs/mine
store-engine train --ds_config configs/zero3.json --config configs/beauty.toml \\
    --config configs/presets/lamia.toml --data data/beauty     # a data set, then a method
store-engine train --ds_config configs/zero3.json --resume

Several ranks start with DeepSpeed's launcher, with the same arguments:

deepspeed --num_accelerators 2 store_engine/train.py --ds_config configs/zero3.json

Tomorrow's data: items keep their SIDs, new ones come after them, the weights are warm.

store-engine train --ds_config configs/zero3.json --from runs/mine run_dir=runs/mine-2 \\
    --interactions new_events.csv --items new_items.csv    # what has come since
store-engine train --ds_config configs/zero3.json --from runs/mine run_dir=runs/mine-2 \\
    --data today/                                          # or all of it again

Everything goes into the run directory: weights, SIDs, trie, metrics, logs and checkpoints.
"""

import argparse
import importlib
import json

from store_engine.cli.main import VerbParser, add_overrides_argument
from store_engine.terminal import quieten_deepspeed


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parse_arguments(argv)  # answers --help, and refuses a wrong flag, before PyTorch is loaded
    quieten_deepspeed()
    # by name, as every verb is started: train.py stands above this package and imports its parser
    status: int = importlib.import_module("store_engine.train").main(argv)
    return status


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Reads the command line of a training; `--data PATH` becomes the override `data.path=PATH`.

    Args:
        argv: Arguments; None takes those of the process.
    """
    parser = VerbParser("train", __doc__)
    parser.add_argument(
        "--config",
        action="append",
        help="the run's TOML file; given again, the later one counts (default configs/ml100k.toml "
        "and configs/presets/ours.toml)",
    )
    parser.add_argument(
        "--ds_config", required=True, help="DeepSpeed's JSON file, configs/zero*.json"
    )
    parser.add_argument(
        "--data", metavar="PATH", help="folder of the data; short for data.path=PATH"
    )
    parser.add_argument(
        "--from",
        dest="from_run",
        metavar="RUN",
        help="go on from this finished run: its config, vocabulary, SIDs and weights; run_dir=PATH "
        "is the new one",
    )
    parser.add_argument(
        "--items",
        metavar="FILE",
        help="with --from: new items, with the run's columns or as `prepare` read them",
    )
    parser.add_argument(
        "--interactions",
        metavar="FILE",
        help="with --from: the events since then, of any user; as --items",
    )
    parser.add_argument(
        "--journal",
        action="store_true",
        help="with --from: the events since then are those of the run's journal",
    )
    parser.add_argument("--resume", action="store_true", help="go on with the run that is there")
    parser.add_argument("--overwrite", action="store_true", help="remove the run that is there")
    parser.add_argument("--local_rank", type=int, help="set by the deepspeed launcher")
    add_overrides_argument(parser, "recommender.epochs=30")
    args = parser.parse_intermixed_args(argv)
    if args.from_run is None and (args.items or args.interactions or args.journal):
        parser.error(
            "--items, --interactions and --journal come to the data of a run: --from RUN names it"
        )
    if args.interactions and args.journal:
        parser.error(
            "--interactions names a file of the events since then, --journal takes those of the "
            "journal: one of the two is wanted"
        )
    default = ["configs/ml100k.toml", "configs/presets/ours.toml"] if args.from_run is None else []
    args.config = args.config or default
    if args.data is not None:
        args.overrides.append(f"data.path={json.dumps(args.data)}")
    return args
