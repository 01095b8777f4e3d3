"""Exports a run's LLM for transformers: a Llama, Qwen2 or Qwen3 over the unified vocabulary.

store-engine export runs/ml100k --out exported/

The folder must be new; it appears complete or not at all. The text's tokenizer goes with it. LoRA
was merged when the run was trained.
"""

import argparse
import contextlib
import sys
from pathlib import Path

from store_engine.cli.main import add_run_argument, run_verb
from store_engine.terminal import printable


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    return run_verb("export", __doc__, _add_arguments, _export, argv)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_argument(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to make")


def _export(args: argparse.Namespace) -> None:
    # here, because it takes seconds that --help need not wait for
    from store_engine.runs.run import load_run

    # transformers and what it imports print on stdout, which is for the result alone
    with contextlib.redirect_stdout(sys.stderr):
        from store_engine.integrations.huggingface import export_run

        run = load_run(args.run)
        exported = export_run(run, args.out)
    family, text_tokens = type(exported).__name__, run.model.text_vocab_size
    print(f"{printable(args.out)}: {family}, {text_tokens:,} text tokens, then codes")
