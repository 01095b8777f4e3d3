"""Exports a run's LLM for transformers: a Llama, Qwen2 or Qwen3 over the joint vocabulary.

The text's tokenizer goes with it. LoRA was merged when the run was trained.

store-engine export --run runs/ml100k --out exported/
"""

import argparse
import sys
from pathlib import Path

from store_engine.errors import InputError
from store_engine.runs.run import load_run


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, required=True, metavar="DIR", help="a finished run")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to make")
    args = parser.parse_args(argv)
    try:
        if args.out.exists():
            raise InputError(f"{args.out}: is there already, name a new folder")
        run = load_run(args.run)
        try:
            # here, because transformers is needed by nothing else and is not always installed
            from store_engine.integrations.huggingface import export_huggingface
        except ImportError as error:
            raise InputError("export needs transformers: pip install transformers") from error
        exported = export_huggingface(run.model, args.out, bos=run.vocabulary.bos_id)
        run.vocabulary.save(args.out)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    family, text_tokens = type(exported).__name__, run.model.text_vocab_size
    print(f"{args.out}: {family}, {text_tokens:,} text tokens, then codes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
