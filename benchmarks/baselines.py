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
import datetime
import itertools
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

# run as a script, only benchmarks/ is on the path
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray

from benchmarks.measuring.harness import commit, machine
from benchmarks.sasrec import SASRec, SASRecConfig, rank, train
from benchmarks.slist import Slist, choose
from store_engine.collaborative.item_space import item_space
from store_engine.config import DataConfig, EvidenceConfig
from store_engine.data.histories import Histories
from store_engine.data.load import Dataset, load_dataset
from store_engine.data.split import Examples, Split, leave_one_out
from store_engine.evaluation.metrics import ranking_metrics, standard_errors
from store_engine.evaluation.protocols import RULES, CandidateRule
from store_engine.evaluation.validation import sample_examples
from store_engine.files.npz import ArrayForm, read_npz
from store_engine.files.regular import parse_errors
from store_engine.training.item_start import fit_to

MAX_K = 20
TEXT_FIELDS = {
    "beauty": ("title", "categories"),
    "office": ("title", "brand", "description"),
    "ml-100k": ("movie_title", "class", "release_year"),
}
EVIDENCE = {
    "indptr": ArrayForm("i", 1),
    "indices": ArrayForm("i", 1),
    "data": ArrayForm("f", 1),
    "decay": ArrayForm("f", 0),
}
EVIDENCE_EVENTS = 20  # of a history that give evidence
WEIGHTS = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)  # of the evidence, tried

Score = Callable[[Sequence[NDArray[np.int32]]], NDArray[np.float32]]


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


def validation_ndcg(score: Score, valid: Examples) -> float:
    """NDCG@10 on validation users, seen items left out."""
    rankings = rank(score, valid.histories, 10, exclude_history=True)
    return ranking_metrics(rankings, valid.targets, (10,))["ndcg@10"]


def read_evidence(path: Path, num_items: int) -> Score:
    """Reads an item-item matrix; the last events of a history give their rows, weighted by age.

    Raises:
        InputError: The file is missing, damaged or not of this form.
        ValueError: The matrix is not one of this catalogue.
    """
    got = read_npz(path, EVIDENCE, "an evidence file")
    shape = (num_items, num_items)
    matrix = sp.csr_matrix((got["data"], got["indices"], got["indptr"]), shape=shape)
    matrix.check_format(full_check=True)

    def score(histories: Sequence[NDArray[np.int32]]) -> NDArray[np.float32]:
        recent = [history[::-1][:EVIDENCE_EVENTS] for history in histories]
        weights = np.concatenate([got["decay"] ** np.arange(len(rows)) for rows in recent])
        ends = np.cumsum([0, *map(len, recent)])
        votes = sp.csr_matrix((weights, np.concatenate(recent), ends), (len(recent), num_items))
        scores: NDArray[np.float32] = (votes @ matrix).toarray().astype(np.float32)
        return scores

    return score


def with_evidence(score: Score, evidence: Score, valid: Examples) -> tuple[Score, float]:
    """Adds evidence to a score with the weight that is best on validation users."""

    best = max(
        WEIGHTS,
        key=lambda weight: validation_ndcg(add_evidence(score, evidence, weight), valid),
    )
    return add_evidence(score, evidence, best), best


def add_evidence(score: Score, evidence: Score, weight: float) -> Score:
    """Adds evidence to a score."""
    return lambda histories: score(histories) + np.float32(weight) * evidence(histories)


def result_rows(
    rank_by: Callable[[CandidateRule], NDArray[np.int64]], targets: NDArray[np.int32]
) -> list[dict[str, Any]]:
    """Measures rankings under both rules."""
    found = [(rule, rank_by(rule)) for rule in RULES]
    cutoffs = (1, 5, 10, MAX_K)
    return [
        {
            "rule": rule.name,
            "metrics": ranking_metrics(rankings, targets, cutoffs),
            "standard_errors": standard_errors(rankings, targets, cutoffs),
        }
        for rule, rankings in found
    ]


def score_rows(score: Score, examples: Examples) -> list[dict[str, Any]]:
    """Measures the rankings of a score of all items under both rules."""

    def rank_by(rule: CandidateRule) -> NDArray[np.int64]:
        return rank(score, examples.histories, MAX_K, exclude_history=rule.exclude_history)

    return result_rows(rank_by, examples.targets)


class Ranked(NamedTuple):
    """Rankings made elsewhere, of some test users."""

    users: NDArray[np.int64]  # (num_ranked,) places among the test users
    rankings: NDArray[np.int64]  # (num_ranked, k) catalogue rows, best first, -1 padded


def read_rankings(path: Path, examples: Examples, num_items: int) -> Ranked:
    """Reads what another library ranked, and checks that it had our split.

    Raises:
        InputError: The file is missing, damaged or not of this form; or users, targets or items
            are not those of the test, or a ranking names an item twice.
    """
    forms = {
        "users": ArrayForm("i", 1),
        "rankings": ArrayForm("i", 2),
        "targets": ArrayForm("i", 1),
    }
    got = read_npz(path, forms, "a rankings file")
    users, rankings = got["users"], got["rankings"]
    with parse_errors(path, "a rankings file"):
        if not len(users) == len(rankings) == len(got["targets"]) == len(np.unique(users)):
            raise ValueError("users must be distinct, with a ranking and a target each")
        if len(users) and not 0 <= users.min() <= users.max() < len(examples.targets):
            raise ValueError(f"users must be below {len(examples.targets)}")
        if (examples.targets[users] != got["targets"]).any():
            raise ValueError("the targets are not those of the test")
        if rankings.min() < -1 or rankings.max() >= num_items:
            raise ValueError(f"rankings must hold catalogue rows below {num_items}, or -1")
        ordered = np.sort(rankings, axis=1)
        if ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any():
            raise ValueError("a ranking names an item twice")
    return Ranked(users, rankings)


def without_items(
    rankings: NDArray[np.int64], items: Sequence[NDArray[Any]], k: int
) -> NDArray[np.int64]:
    """Takes each user's items out of the ranking and keeps the first k of the rest, -1 padded."""
    kept = np.full((len(rankings), k), -1, dtype=np.int64)
    for user, (ranking, out) in enumerate(zip(rankings, items, strict=True)):
        rows = ranking[~np.isin(ranking, out) & (ranking >= 0)][:k]
        kept[user, : len(rows)] = rows
    return kept


def measure_rankings(split: Split, num_items: int, path: Path) -> list[dict[str, Any]]:
    """Measures the rankings of a file under both rules."""
    users, rankings = read_rankings(path, split.test, num_items)

    def rank_by(rule: CandidateRule) -> NDArray[np.int64]:
        seen = [split.test.histories[u] if rule.exclude_history else np.empty(0) for u in users]
        return without_items(rankings, seen, MAX_K)

    rows = result_rows(rank_by, split.test.targets[users])
    return [{"num_ranked": len(users)} | row for row in rows]


def measure_sasrec(
    dataset: Dataset, split: Split, options: argparse.Namespace
) -> list[dict[str, Any]]:
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
    scores: dict[str, tuple[Score, float]] = {
        "sasrec": (model.log_probabilities, 0.0),
        "sasrec_refit": (refitted.log_probabilities, 0.0),
    }
    if options.run:
        counted = read_evidence(options.run / "evidence_train.npz", num_items)
        updated = read_evidence(options.run / "evidence.npz", num_items)
        summed, weight = with_evidence(model.log_probabilities, counted, valid)
        scores["sasrec+evidence"] = summed, weight
        both = add_evidence(refitted.log_probabilities, updated, weight)
        scores["sasrec_refit+evidence_updated"] = both, weight
    for name, (score, weight) in scores.items():
        of_name = {"model": name, "start": options.start, **spent, "evidence_weight": weight}
        rows += [of_name | row for row in score_rows(score, split.test)]
    return rows


def measure_slist(
    dataset: Dataset, split: Split, options: argparse.Namespace
) -> list[dict[str, Any]]:
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
        "machine": machine(),
        "threads": torch.get_num_threads(),
        "commit": commit(),
        "date": datetime.date.today().isoformat(),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with options.out.open("a", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(stamp | row) + "\n")
            shown = "  ".join(f"{k} {row['metrics'][k]:.4f}" for k in ("recall@10", "ndcg@10"))
            print(f"{dataset.name}  {row['model']}  {row['rule']}  {shown}")


if __name__ == "__main__":
    main()
