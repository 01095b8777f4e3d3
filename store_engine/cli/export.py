"""Exports a run as a Hugging Face folder: a Llama, Qwen2 or Qwen3 over text and codes.

store-engine export runs/ml100k --to exported/

AutoModelForCausalLM and AutoTokenizer load it with nothing of ours installed. The folder must be
new; it appears complete or not at all. It holds the catalogue's text and SIDs, without removed
items, and nobody's history. LoRA was merged when the run was trained. `store-engine import` makes
a run of it again.
"""

import argparse
import contextlib
import sys
from pathlib import Path

from store_engine.cli.main import add_run_argument, claim_output, run_verb
from store_engine.terminal import printable, quieten_deepspeed


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    return run_verb("export", __doc__, _add_arguments, _export, argv)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_argument(parser)
    parser.add_argument(
        "--to", "--out", type=Path, required=True, metavar="DIR", help="folder to make"
    )
    parser.add_argument(
        "--max-shard-size",
        default="5GB",
        metavar="SIZE",
        help="largest file of weights (default 5GB)",
    )
    parser.add_argument(
        "--with-code",
        action="store_true",
        help="add a Python file that recommends by item rows and heads, for trust_remote_code=True",
    )


def _export(args: argparse.Namespace) -> None:
    claim_output(args.to)
    quieten_deepspeed()
    # here, because it takes seconds that --help need not wait for
    from store_engine.runs.run import load_run

    # transformers and what it imports print on stdout, which is for the result alone
    with contextlib.redirect_stdout(sys.stderr):
        from store_engine.integrations.export_run import export_run

        run = load_run(args.run)
        exported = export_run(
            run, args.to, max_shard_size=args.max_shard_size, with_code=args.with_code
        )
    line = f"{exported.family}, {exported.num_text_tokens:,} text tokens, then codes"
    print(f"{printable(args.to)}: {line}")
    if exported.num_removed:
        print(
            f"{exported.num_items:,} items, without the {exported.num_removed:,} that were removed"
        )
    if not exported.is_plain and not args.with_code:
        print(
            "its item rows and heads stand beside the LLM: `store-engine import` reads them, and "
            "--with-code adds what transformers needs to recommend"
        )
