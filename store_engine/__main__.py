"""The command `store-engine VERB ...`: the entry points under one name."""

import importlib
import os
import sys

_VERBS = {
    "train": "train the one LLM and measure it (start it with `deepspeed` for several ranks)",
    "tokenize": "give SIDs to items",
    "recommend": "recommend items after a history",
    "evaluate": "measure a run again",
    "check": "say what is whole in a run directory, and what is missing or damaged",
    "export": "export a run as a Hugging Face checkpoint",
    "plot": "draw a run's losses, learning rate and throughput",
}


def main(argv: list[str] | None = None) -> int:
    """Runs `store-engine VERB ...`; returns the exit status."""
    arguments = sys.argv[1:] if argv is None else argv
    verb = arguments[0] if arguments else "--help"
    if verb not in _VERBS:
        print("usage: store-engine VERB ...   (store-engine VERB --help tells more)\n")
        for name, what in _VERBS.items():
            print(f"  {name:<10} {what}")
        return 0 if verb in ("-h", "--help") else 2
    # libgomp reads it when torch is loaded: a thread that waits for the others sleeps soon. On
    # cores that other processes keep busy, long spinning makes two threads ten times slower
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    name = "tokenize_items" if verb == "tokenize" else verb  # not the name of a standard module
    room = "store_engine" if verb == "train" else "store_engine.cli"
    module = importlib.import_module(f"{room}.{name}")
    status: int = module.main(arguments[1:])
    return status


if __name__ == "__main__":
    sys.exit(main())
