"""Draws a run's curves into a PNG: the loss of each task, learning rate, throughput.

    store-engine plot runs/ml100k
    store-engine plot runs/ml100k --out curves.png

Reads train_log.jsonl, so a run that still trains, or never came to its end, can be drawn too.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from store_engine.errors import InputError
from store_engine.training.log import NO_LOSS, read_log

_ROWS = {"loss": "loss by task", "lr": "learning rate", "tokens_per_s": "tokens/s"}


def main(argv: list[str] | None = None) -> int:
    """Draws from the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="the run directory")
    parser.add_argument("--out", type=Path, help="the picture; RUN/curves.png if not given")
    args = parser.parse_args(argv)
    out = args.out or args.run / "curves.png"
    try:
        plot_run(args.run, out)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(out)
    return 0


def plot_run(run_dir: Path, out: Path) -> None:
    """Writes the curves of a run; one column per stage, one row per kind of figure.

    Args:
        run_dir: A run, finished or not.
        out: The picture; its suffix says the format.

    Raises:
        InputError: The run has no log, matplotlib is missing, or `out` cannot be written.
    """
    entries = read_log(run_dir / "train_log.jsonl")
    if not entries:
        raise InputError(f"{run_dir}: nothing to draw (train_log.jsonl holds no step)")
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError("plot needs matplotlib: pip install 'store-engine[watch]'") from error
    stages = list(dict.fromkeys(entry["stage"] for entry in entries))
    figure = Figure(figsize=(5.5 * len(stages), 9), layout="constrained")
    axes = figure.subplots(len(_ROWS), len(stages), squeeze=False, sharex="col")
    for column, stage in enumerate(stages):
        own = [entry for entry in entries if entry["stage"] == stage]
        for ax, (row, label) in zip(axes[:, column], _ROWS.items(), strict=True):
            for name in _losses(own) if row == "loss" else [row]:
                points = [(e["step"], e[name]) for e in own if name in e]
                ax.plot(*zip(*points, strict=True), label=name, linewidth=1)
            ax.set_ylabel(label)
            ax.grid(alpha=0.3)
        axes[0, column].set_title(stage)
        axes[0, column].legend()
        axes[-1, column].set_xlabel("step")
    figure.suptitle(run_dir.resolve().name)
    try:
        figure.savefig(out)
    except (OSError, ValueError) as error:  # no such folder, or a format that is none
        raise InputError(f"{out}: {error}") from error


def _losses(entries: list[dict[str, Any]]) -> list[str]:
    """Names of the losses in a stage's entries: the total, then every task."""
    names = dict.fromkeys(name for entry in entries for name in entry)
    return [name for name in names if name not in (*NO_LOSS, "stage", "step")]


if __name__ == "__main__":
    sys.exit(main())
