"""Makes a run of a folder that `store-engine export` wrote.

store-engine import exported/ --to runs/imported

The run must be new. It recommends as the run that was exported, also after somebody trained the
weights on in transformers. It has no histories, which an export never holds.
"""

import argparse
from pathlib import Path

from store_engine.cli.main import claim_output, run_verb
from store_engine.terminal import printable


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    return run_verb("import", __doc__, _add_arguments, _import, argv)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="DIR", help="the exported folder")
    parser.add_argument("--to", type=Path, required=True, metavar="RUN", help="run to make")


def _import(args: argparse.Namespace) -> None:
    claim_output(args.to, args.folder)
    # here, because it takes seconds that --help need not wait for
    from store_engine.integrations.import_run import import_run

    run = import_run(args.folder, args.to)
    print(f"{printable(args.to)}: a run of {run.catalog.num_items:,} items")
