"""What became of all parts and predictions, as JSON and as tables of Markdown."""

import json
from dataclasses import asdict
from pathlib import Path

from benchmarks.gpu_run.parts import Result
from benchmarks.gpu_run.predictions import PREDICTIONS, check_prediction


def write_summary(out: Path, device: str, results: list[Result]) -> None:
    """Writes summary.json and summary.md into the folder of a run."""
    predictions = [
        {"prediction": p.what, "verdict": verdict, "figures": figures}
        for p in PREDICTIONS
        for verdict, figures in [check_prediction(out, p)]
    ]
    summary = {"device": device, "parts": [asdict(result) for result in results]}
    summary |= {"predictions": predictions}
    (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    lines = ["| part | status | reason | s |", "|---|---|---|---|"]
    lines += [f"| {r.part} | {r.status} | {r.reason} | {r.wall_s} |" for r in results]
    lines += ["", "| prediction | verdict | measured |", "|---|---|---|"]
    for p in predictions:
        measured = ", ".join(f"{figure:.4g}" for figure in p["figures"])
        lines.append(f"| {p['prediction']} | {p['verdict']} | {measured} |")
    (out / "summary.md").write_text("\n".join(lines) + "\n")
