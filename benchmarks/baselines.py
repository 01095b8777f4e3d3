"""Learned baselines and other libraries' rankings, in our harness: split, metrics, both rules.

    python benchmarks/baselines.py --dataset beauty --data FOLDER --model sasrec --start space
    python benchmarks/baselines.py --dataset ml-100k --model sasrec --start random --seed 1
    python benchmarks/baselines.py --dataset ml-100k --model slist
    ... --run RUN                            # log-probabilities plus the evidence of a run of ours
    ... --rankings tiger.npz --name tiger    # rankings made elsewhere (benchmarks/peers/)

Leave-one-out; all items compete, or all but those of the history. The epoch and the weight of the
evidence are chosen on validation users; then the model is trained again for as many epochs with the
validation events, as ours is (`sasrec_refit`). One JSON line per rule goes to --out.
"""

import argparse
import dataclasses
import itertools
import sys
import time
from collections.abc import Callable
from pathlib import Path

# run as a script, only benchmarks/ is on the path
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.measuring.json_rows import Row, append_rows, provenance
from benchmarks.quality import click_events
from benchmarks.quality.evidence import like, weighed_for, with_evidence
from benchmarks.quality.rankings import (
    MAX_K,
    Score,
    read_rankings,
    result_rows,
    score_rows,
    validation_ndcg,
    without_items,
)
from benchmarks.quality.sasrec import SASRec, SASRecConfig, train
from benchmarks.quality.slist import Slist, choose
from store_engine.collaborative.evidence import Evidence
from store_engine.collaborative.item_space import item_space
from store_engine.config import DataConfig, EvidenceConfig
from store_engine.data.histories import Histories
from store_engine.data.load import Dataset, load_dataset
from store_engine.data.split import Split, leave_one_out
from store_engine.evaluation.protocols import CandidateRule
from store_engine.evaluation.validation import sample_examples
from store_engine.training.item_start import fit_to

TEXT_FIELDS = {
    "beauty": ("title", "categories"),
    "office": ("title", "brand", "description"),
    "ml-100k": click_events.TEXT_FIELDS,
}


def load(name: str, folder: str) -> Dataset:
    """Loads one of the data sets that the tables are about; others by files of the same names."""
    fields = TEXT_FIELDS.get(name, ("title",))
    if name == "ml-100k":
        return load_dataset(DataConfig(path=folder, text_fields=fields))
    return load_dataset(DataConfig(name="files", path=folder, text_fields=fields))


def first_rows(
    dataset: Dataset, split: Split, options: argparse.Namespace
) -> NDArray[np.float32] | None:
    """The rows that SASRec starts from: the space of co-visits and text; None at random."""
    if options.start == "random":
        return None
    found = item_space(split.train, split.valid, dataset.catalog, EvidenceConfig(), options.seed)
    return fit_to(found.vectors, SASRecConfig.hidden_size)


def train_sasrec(
    events: Histories,
    num_items: int,
    config: SASRecConfig,
    start: NDArray[np.float32] | None,
    validate: Callable[[SASRec], float],
) -> tuple[SASRec, int]:
    """Trains SASRec; returns it and the epoch that validation liked best."""

    def log(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    torch.manual_seed(config.seed)
    model = SASRec(num_items, config, start)
    return model, train(model, events, config, validate, log)


def measure_rankings(split: Split, num_items: int, path: Path) -> list[Row]:
    """Measures the rankings of a file under both rules."""
    users, rankings = read_rankings(path, split.test, num_items)

    def rank_by(rule: CandidateRule) -> NDArray[np.int64]:
        seen = [split.test.histories[u] if rule.exclude_history else np.empty(0) for u in users]
        return without_items(rankings, seen, MAX_K)

    rows = result_rows(rank_by, split.test.targets[users])
    return [{"num_ranked": len(users)} | row for row in rows]


def measure_sasrec(dataset: Dataset, split: Split, options: argparse.Namespace) -> list[Row]:
    """Trains SASRec and measures it, alone and with the evidence where it is given."""
    began, cpu_began = time.perf_counter(), time.process_time()
    num_items, start = dataset.catalog.num_items, first_rows(dataset, split, options)
    valid = sample_examples(split.valid, options.valid_users, options.seed)
    config = SASRecConfig(
        max_epochs=options.epochs,
        # a random start is slow to come near: validation may stand still for longer
        patience=4 if options.start == "space" else 6,
        num_negatives=options.num_negatives,
        dropout=options.dropout,
        seed=options.seed,
    )

    def validate(model: SASRec) -> float:
        return validation_ndcg(model.log_probabilities, valid)

    model, epoch = train_sasrec(split.train, num_items, config, start, validate)
    # nothing is left to validate on: every epoch counts as better, so that the last one is kept
    count = itertools.count()
    again = dataclasses.replace(config, max_epochs=epoch)
    refitted, _ = train_sasrec(split.before_test, num_items, again, start, lambda _: next(count))
    spent = {
        "seconds": time.perf_counter() - began,
        "cpu_seconds": time.process_time() - cpu_began,
        "epoch": epoch,
    }
    rows = []
    scores: dict[str, tuple[Score, dict[str, float]]] = {
        "sasrec": (model.log_probabilities, {}),
        "sasrec_refit": (refitted.log_probabilities, {}),
    }
    if options.run:
        names = ("evidence_train.npz", "evidence.npz")
        counted, updated = (Evidence.load(options.run / name) for name in names)
        weighed = weighed_for(model.log_probabilities, counted, valid)
        experts = {expert.name: expert.weight for expert in weighed.experts}
        both = with_evidence(model.log_probabilities, weighed)
        scores["sasrec+evidence"] = both, experts
        refit = with_evidence(refitted.log_probabilities, like(updated, weighed))
        scores["sasrec_refit+evidence_updated"] = refit, experts
    for name, (score, experts) in scores.items():
        of_name = {"model": name, "start": options.start, **spent, "experts": experts}
        rows += [of_name | row for row in score_rows(score, split.test)]
    return rows


def measure_slist(dataset: Dataset, split: Split, options: argparse.Namespace) -> list[Row]:
    """Fits SLIST as validation likes it, then with the validation events; measures both."""
    valid = sample_examples(split.valid, options.valid_users, options.seed)
    began, num_items = time.perf_counter(), dataset.catalog.num_items
    chosen = choose(split.train, num_items, lambda m: validation_ndcg(m.scores, valid)).model
    refitted = Slist(split.before_test, num_items, chosen.config)
    spent = {"seconds": time.perf_counter() - began, "config": dataclasses.asdict(chosen.config)}
    rows = []
    for name, model in (("slist", chosen), ("slist_refit", refitted)):
        rows += [{"model": name, **spent} | row for row in score_rows(model.scores, split.test)]
    return rows


def parse() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", required=True, help=f"{', '.join(TEXT_FIELDS)}, or a name")
    parser.add_argument("--data", default="", metavar="FOLDER")
    parser.add_argument("--model", default="sasrec", choices=("sasrec", "slist"))
    parser.add_argument("--start", default="random", choices=("random", "space"))
    parser.add_argument("--run", type=Path, metavar="RUN", help="whose evidence is added")
    parser.add_argument("--rankings", type=Path, metavar="FILE.npz", help="of another library")
    parser.add_argument("--name", default="rankings", help="whose rankings those are")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=60, help="at most")
    parser.add_argument("--dropout", type=float, default=SASRecConfig.dropout)
    parser.add_argument("--num-negatives", type=int, default=0, help="0: all items")
    parser.add_argument("--valid-users", type=int, default=2000)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.jsonl")
    return parser.parse_args()


def main() -> None:
    """Measures what the command line asks for."""
    options = parse()
    dataset = load(options.dataset, options.data)
    split = leave_one_out(dataset.histories)
    if options.rankings:
        measured = measure_rankings(split, dataset.catalog.num_items, options.rankings)
        rows = [{"model": options.name} | row for row in measured]
    else:
        measure = {"sasrec": measure_sasrec, "slist": measure_slist}[options.model]
        rows = measure(dataset, split, options)
    stamp = {
        "dataset": dataset.name,
        "protocol": split.protocol,
        "seed": options.seed,
        "num_users": len(split.test.targets),
        **provenance(),
    }
    append_rows(options.out, (stamp | row for row in rows))
    for row in rows:
        shown = "  ".join(f"{k} {row['metrics'][k]:.4f}" for k in ("recall@10", "ndcg@10"))
        print(f"{dataset.name}  {row['model']}  {row['rule']}  {shown}")


if __name__ == "__main__":
    main()
