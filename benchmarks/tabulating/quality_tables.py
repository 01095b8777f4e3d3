"""Tables of quality: other models, new items and click-through, from their JSON rows."""

from pathlib import Path
from typing import Any

from benchmarks.measuring.json_rows import Row, read_rows
from benchmarks.tabulating.markdown import figure, markdown

_COLUMNS = [
    (rule, metric)
    for rule in ("seen_left_out", "seen_allowed")
    for metric in ("recall@10", "ndcg@10")
]
_MODELS = {
    "sasrec": "SASRec",
    "slist": "SLIST",
    "tiger_cornac": "cornac's TIGER",
    "popularity": "popularity",
    "item_rate": "share of an item's ratings that are 4 or more",
    "logistic_regression": "logistic regression",
    "scorer": "our LLM",
}
_STARTS = {"": (), "random": ("random start",), "space": ("from the space of ours",)}
_PARTS = {
    "refit": "refitted",
    "evidence": "with our evidence",
    "evidence_updated": "with our evidence, updated",
}


def baselines_table(folder: Path) -> str:
    """Learned baselines and other libraries, by data set; of several rows alike the last."""
    found: dict[tuple[str, ...], dict[str, Row]] = {}
    for row in read_rows(folder / "baselines.jsonl"):
        key = row["dataset"], row["model"], row.get("start") or "", str(row["seed"])
        found.setdefault(key, {})[row["rule"]] = row
    lines = []
    for (dataset, model, start, _), by_rule in sorted(found.items(), key=lambda item: item[0][0]):
        figures = [figure(by_rule[rule]["metrics"][name]) for rule, name in _COLUMNS]
        spent = next(iter(by_rule.values())).get("cpu_seconds")
        minutes = f"{spent / 60:.0f}" if spent is not None else ""
        lines.append([dataset, model_title(model, start), *figures, minutes])
    header = ["data", "model", "R@10, seen items left out", "N@10, seen items left out"]
    header += ["R@10, seen items allowed", "N@10, seen items allowed", "CPU minutes"]
    return markdown(header, lines)


def model_title(model: str, start: str) -> str:
    """Names a row's model: what it is, how it started, and what was added."""
    name, *added = model.replace("_refit", "+refit").split("+")
    parts = [_MODELS.get(name, name), *_STARTS[start], *(_PARTS[part] for part in added)]
    return ", ".join(parts)


def cold_start_table(folder: Path) -> str:
    """Recall of new items, beside neighbours by text, and of the warm; of rows alike the last."""
    found: dict[tuple[Any, ...], Row] = {}
    for row in read_rows(folder / "cold_start.jsonl"):
        found[row["dataset"], row["cold"], row["seed"]] = row
    lines = []
    for _, row in sorted(found.items()):
        rule, share = row["cold"].split(":")
        items = f"{rule} {100 * float(share):.0f} % ({row['num_cold']:,})"
        cells = []
        for among in ("among_cold", "full_catalogue"):
            for who in ("ours", "text_neighbours"):
                cells.append(recalls(row[among][who]))
        before, after = row["warm_before"], row["warm_after"]
        lines.append([row["dataset"], items, *cells, recalls(before), recalls(after)])
    header = ["data", "new items", "among the new: ours", "text neighbours"]
    header += ["in the full catalogue: ours", "text neighbours", "warm, before", "warm, after"]
    return markdown(header, lines)


def scoring_table(folder: Path) -> str:
    """Click-through of MovieLens-100k."""
    lines = []
    for row in read_rows(folder / "scoring.jsonl"):
        figures = row["metrics"]
        cells = [figure(figures[name], 3) for name in ("auc", "gauc", "log_loss")]
        lines.append([model_title(row["model"], ""), *cells])
    return markdown(["model", "AUC", "AUC within users", "LogLoss"], lines)


def recalls(figures: Row) -> str:
    """Recall@1 / Recall@10."""
    return " / ".join(figure(figures[name]) for name in ("recall@1", "recall@10"))
