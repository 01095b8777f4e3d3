"""What was foretold without a GPU, and whether it holds against the rows of a run."""

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.gpu_run.parts import CHUNKS, SMOLLM2, TEXT_LOSS


@dataclass(frozen=True)
class Prediction:
    """A figure that was estimated without a GPU (docs/adr/006-first-gpu-run.md)."""

    what: str
    part: str
    provider: str
    case: str  # regex
    metric: str
    low: float
    high: float


# fmt: off
PREDICTIONS = [
    Prediction("the text loss by an online softmax takes 12 to 16 ms", "text_loss", "ours",
               TEXT_LOSS, "fwd_bwd_ms", 12, 16),
    Prediction("Liger's takes 3 to 4 ms", "text_loss", "liger", TEXT_LOSS, "fwd_bwd_ms", 3, 4),
    Prediction("ours in chunks takes 3 to 5 ms", "text_loss", "ours", CHUNKS, "fwd_bwd_ms", 3, 5),
    Prediction("a search of SmolLM2's shape by steps launches 2,600 to 3,600 kernels",
               "search_profile", "ours_triton", SMOLLM2, "kernels", 2600, 3600),
    Prediction("the GPU works less than 20 % of it", "search_profile", "ours_triton", SMOLLM2,
               "busy_share", 0, 0.2),
    Prediction("by a graph it is 1,098 kernels, or up to a third more where a product is split",
               "search_profile", "ours_graph", SMOLLM2, "kernels", 1000, 1464),
    Prediction("by a graph there are a copy in and a copy out", "search_profile", "ours_graph",
               SMOLLM2, "copies", 2, 2),
    Prediction("by a graph the host waits once", "search_profile", "ours_graph", SMOLLM2, "waits",
               1, 1),
    Prediction("by a graph the GPU works more than 60 % of it", "search_profile", "ours_graph",
               SMOLLM2, "busy_share", 0.6, 1),
    Prediction("by a graph it takes 1.5 to 4 ms", "decode_smollm2", "ours_graph", SMOLLM2,
               "latency_ms", 1.5, 4),
    Prediction("training SmolLM2's shape reaches 15 to 30 % of the matmul peak", "train_bench",
               "ours", "layers=30", "share_of_peak", 0.15, 0.30),
]
# fmt: on


def check_prediction(out: Path, prediction: Prediction) -> tuple[str, list[float]]:
    """held, wrong or not measured; and the figures. A dry run measures no GPU."""
    figures = [
        float(row["p50"])
        for row in rows_of(out / f"{prediction.part}.csv")
        if (row["provider"], row["metric"]) == (prediction.provider, prediction.metric)
        and re.search(prediction.case, row["case"])
    ]
    if not figures:
        return "not measured", figures
    is_held = all(prediction.low <= figure <= prediction.high for figure in figures)
    return "held" if is_held else "wrong", figures


def rows_of(path: Path) -> Iterator[dict[str, str]]:
    """The rows that a part wrote, if it came so far."""
    if path.exists():
        with path.open(newline="") as file:
            yield from csv.DictReader(file)
