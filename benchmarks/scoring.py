"""Click-through on MovieLens-100k: will this user rate this film 4 or 5? Ours beside baselines.

    python benchmarks/scoring.py --out FILE.jsonl
    python benchmarks/scoring.py --run RUN --out FILE.jsonl    # SIDs and first weights of a run

Events are split by time alone, for all users at once: the first 80 % to train, 10 % to choose, the
last 10 % to test. Whoever scores an event may look at everything that came before it, the labels
too. Providers:
    popularity           how many training events the film has; a logistic curve makes it a chance
    item_rate            the film's share of positives so far, smoothed
    logistic_regression  film, user, words; shares of positives of the user and the film so far; how
                         far the film's words are like those of films that the user liked
    scorer               the LLM reads `codes label codes label ...` and answers YES or NO behind
                         each item's codes; every label is a target, and so is the next item, 1:1
    scorer_of_run        a run's own click-through head, which learned from random negatives
A run must not have learned from the test's events: train it on the films' texts alone, or on the
training period.
"""

import argparse
import sys
import time
from pathlib import Path

# run as a script, only benchmarks/ is on the path
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from benchmarks.measuring.json_rows import append_rows, provenance
from benchmarks.quality.click_baselines import logistic_regression, popularity, shares_so_far
from benchmarks.quality.click_events import TEST, load_events, measure
from benchmarks.quality.click_scorer import (
    chances_of,
    chances_of_run,
    model_of_run,
    new_model,
    train_scorer,
)
from store_engine.data.movielens import find_ml100k
from store_engine.runs.run import load_run


def main() -> None:
    """Measures all providers and writes a JSON line for each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="", metavar="FOLDER", help="ml-100k's, else the cache")
    parser.add_argument("--run", type=Path, metavar="RUN")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=40, help="at most")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.jsonl")
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    catalog, events = load_events(find_ml100k(options.data))
    found = {
        "popularity": popularity(events),
        "item_rate": shares_so_far(events.rows, events)[0],
        "logistic_regression": logistic_regression(events, catalog),
    }
    run = load_run(options.run) if options.run else None
    began = time.perf_counter()
    model = model_of_run(run, catalog) if run else new_model(events, catalog)
    epoch = train_scorer(model, events, options.seed, options.epochs)
    seconds = time.perf_counter() - began
    found["scorer"] = chances_of(model, events)
    if run and run.has_scoring:
        found["scorer_of_run"] = chances_of_run(run, events)
    rows = [
        {
            "dataset": "ml-100k",
            "protocol": "global temporal, rating >= 4",
            "model": name,
            "seed": options.seed,
            "metrics": measure(chances, events, TEST),
            "num_test": int((events.periods == TEST).sum()),
            **({"seconds": seconds, "epoch": epoch} if name == "scorer" else {}),
            **provenance(),
        }
        for name, chances in found.items()
    ]
    append_rows(options.out, rows)
    for row in rows:
        shown = "  ".join(f"{key} {value:.4f}" for key, value in row["metrics"].items())
        print(f"{row['model']:20} {shown}")


if __name__ == "__main__":
    main()
