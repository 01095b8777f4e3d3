"""Draws a run's curves into a PNG: the loss of each task, learning rate, throughput.

store-engine plot runs/ml100k
store-engine plot runs/ml100k --out curves.svg      # the suffix says the format

Reads train_log.jsonl, so a run that still trains, or never came to its end, can be drawn too.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from store_engine.cli.main import add_run_argument, check_output, run_verb
from store_engine.errors import InputError
from store_engine.runs.run_paths import RunPaths
from store_engine.terminal import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ROWS = {"loss": "loss by task", "lr": "learning rate", "tokens_per_s": "tokens/s"}


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    return run_verb("plot", __doc__, _add_arguments, _plot, argv)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_argument(parser)
    parser.add_argument("--out", type=Path, help="the picture (default RUN/curves.png)")


def _plot(args: argparse.Namespace) -> None:
    out = RunPaths(args.run).curves if args.out is None else args.out
    check_output(out)
    plot_run(args.run, out)
    print(printable(out))


def plot_run(run_dir: Path, out: Path) -> None:
    """Writes the curves of a run; one column per stage, one row per kind of figure.

    Args:
        run_dir: A run, finished or not.
        out: The picture; its suffix says the format.

    Raises:
        InputError: The run has no log, matplotlib is missing, or `out` cannot be written.
    """
    from store_engine.training.log import read_log

    if not out.suffix:  # matplotlib would write another file, with a suffix of its own
        raise InputError(f"{out}: the suffix says the format, such as .png or .svg")
    entries = read_log(RunPaths(run_dir).log)
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
        _draw_stage(
            axes[:, column].tolist(), [entry for entry in entries if entry["stage"] == stage]
        )
        axes[0, column].set_title(stage)
    # names are the user's, and a $ would begin a formula
    figure.suptitle(printable(run_dir.resolve().name), parse_math=False)
    try:
        figure.savefig(out)
    except (OSError, ValueError) as error:  # no such folder, or a format that is none
        raise InputError(f"{out}: {getattr(error, 'strerror', None) or error}") from error


def _draw_stage(axes: "Sequence[Axes]", entries: list[dict[str, Any]]) -> None:
    for ax, (row, label) in zip(axes, _ROWS.items(), strict=True):
        for name in _losses(entries) if row == "loss" else [row]:
            points = [(entry["step"], entry[name]) for entry in entries if name in entry]
            ax.plot(*zip(*points, strict=True), label=name, linewidth=1)
        ax.set_ylabel(label)
        ax.grid(alpha=0.3)
    lines = axes[0].get_lines()
    labels = [printable(line.get_label()) for line in lines]
    for text in axes[0].legend(lines, labels).get_texts():
        text.set_parse_math(False)
    axes[-1].set_xlabel("step")


def _losses(entries: list[dict[str, Any]]) -> list[str]:
    """Names the losses in a stage's entries: the total, then every task."""
    from store_engine.training.log import NO_LOSS

    names = dict.fromkeys(name for entry in entries for name in entry)
    return [name for name in names if name not in (*NO_LOSS, "stage", "step")]
