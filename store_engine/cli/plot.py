"""Draws a run's curves into a PNG: the loss of each task, learning rate, throughput.

store-engine plot runs/ml100k
store-engine plot runs/ml100k --out curves.svg      # the suffix says the format
store-engine plot runs/ml100k --codebook            # how the codes of its items are used

Reads train_log.jsonl, so a run that still trains, or never came to its end, can be drawn too; with
--codebook sids.npz, which is there after stage 1.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from store_engine.cli.main import add_run_argument, claim_output, run_verb
from store_engine.errors import InputError
from store_engine.extras import needs
from store_engine.runs.run_paths import RunPaths
from store_engine.terminal import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from store_engine.sid.sid_table import SidTable

_ROWS = {"loss": "loss by task", "lr": "learning rate", "tokens_per_s": "tokens/s"}


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    return run_verb("plot", __doc__, _add_arguments, _plot, argv)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_argument(parser)
    parser.add_argument(
        "--out", type=Path, help="the picture (default RUN/curves.png, RUN/codebook.png)"
    )
    parser.add_argument("--codebook", action="store_true", help="draw the codes, not the training")


def _plot(args: argparse.Namespace) -> None:
    if args.out is not None:
        claim_output(args.out)
    paths = RunPaths(args.run)
    out = args.out or (paths.codebook if args.codebook else paths.curves)
    if args.codebook:
        plot_codebook(args.run, out)
    else:
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

    entries = read_log(RunPaths(run_dir).log)
    if not entries:
        raise InputError(f"{run_dir}: nothing to draw (train_log.jsonl holds no step)")
    stages = list(dict.fromkeys(entry["stage"] for entry in entries))
    figure = _new_figure(out, 5.5 * len(stages), 9)
    axes = figure.subplots(len(_ROWS), len(stages), squeeze=False, sharex="col")
    for column, stage in enumerate(stages):
        _draw_stage(
            axes[:, column].tolist(), [entry for entry in entries if entry["stage"] == stage]
        )
        axes[0, column].set_title(stage)
    _save_figure(figure, run_dir, out)


def plot_codebook(run_dir: Path, out: Path) -> None:
    """Writes a picture of `codebook_report`.

    Args:
        run_dir: A run that has its SIDs.
        out: The picture; its suffix says the format.

    Raises:
        InputError: The run has no SIDs, matplotlib is missing, or `out` cannot be written.
    """
    from store_engine.runs.run import Run
    from store_engine.runs.run_directory import RunDirectory
    from store_engine.sid.codebook_report import codebook_report

    figure = _new_figure(out, 15, 4.5)
    run = Run(RunDirectory.open(run_dir))
    report = codebook_report(run.sid_table, run.config.tokenizer.num_codes)
    usage, redundancy, neighbours = figure.subplots(1, 3).tolist()
    _draw_usage(usage, run.sid_table, report)
    _draw_redundancy(redundancy, report)
    _draw_neighbours(neighbours, report)
    _save_figure(figure, run_dir, out)


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


def _draw_usage(ax: "Axes", table: "SidTable", report: dict[str, Any]) -> None:
    import numpy as np

    for level in range(len(report["redundancy"])):
        size, figures = table.codebook_sizes[level], report["levels"][level]
        counts = np.sort(np.bincount(table.sids[:, level], minlength=size))[::-1]
        label = f"level {level}, perplexity {figures['perplexity']:.0f} of {size}"
        ax.plot(np.arange(size) / size, counts, label=label, linewidth=1)
    ax.set_ylim(bottom=0)
    ax.set_xlabel("codes, the most used first, as a share")
    ax.set_ylabel("items of a code")
    ax.grid(alpha=0.3)
    ax.legend()


def _draw_redundancy(ax: "Axes", report: dict[str, Any]) -> None:
    values = report["redundancy"]
    ax.imshow(values, vmin=0, vmax=1, cmap="viridis")
    for level, row in enumerate(values):
        for other, value in enumerate(row):
            color = "white" if value < 0.6 else "black"
            ax.text(other, level, f"{value:.2f}", ha="center", va="center", color=color)
    ax.set_xticks(range(len(values)))
    ax.set_yticks(range(len(values)))
    ax.set_xlabel("by the code of level")
    ax.set_ylabel("level")
    ax.set_title("explained, adjusted R2")


def _draw_neighbours(ax: "Axes", report: dict[str, Any]) -> None:
    lengths = range(1, len(report["prefix_by_chance"]) + 1)
    ax.plot(lengths, report["prefix_by_chance"], "o--", label="any two items")
    if "neighbours_share_prefix" in report:
        ax.plot(
            lengths, report["neighbours_share_prefix"], "o-", label="an item and its 10 nearest"
        )
    ax.set_xticks(lengths)
    ax.set_ylim(0, 1)
    ax.set_xlabel("first codes")
    ax.set_title("share the same prefix")
    ax.grid(alpha=0.3)
    ax.legend()


def _new_figure(out: Path, width: float, height: float) -> "Figure":
    """An empty figure, in inches, to be saved as `out`."""
    if not out.suffix:  # matplotlib would write another file, with a suffix of its own
        raise InputError(f"{out}: the suffix says the format, such as .png or .svg")
    with needs("plot"):
        from matplotlib.figure import Figure
    return Figure(figsize=(width, height), layout="constrained")


def _save_figure(figure: "Figure", run_dir: Path, out: Path) -> None:
    """Writes a figure under the name of its run."""
    # names are the user's, and a $ would begin a formula
    figure.suptitle(printable(run_dir.resolve().name), parse_math=False)
    try:
        figure.savefig(out)
    except (OSError, ValueError) as error:  # a full disk, or a format that is none
        raise InputError(f"{out}: {getattr(error, 'strerror', None) or error}") from error
