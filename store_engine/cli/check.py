"""Says what is whole in a run directory, and what is missing or damaged.

store-engine check runs/ml100k
store-engine check runs/ml100k --verify     # reads every file again, the checkpoints too

The exit status is 0 if all is whole, also in a run that still trains, and 2 if something is not.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from store_engine.cli.main import add_json_argument, add_run_argument, print_json, run_verb
from store_engine.errors import InputError
from store_engine.terminal import printable

if TYPE_CHECKING:
    from store_engine.runs.inspect_run import RunReport
    from store_engine.runs.manifest import Lineage


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    return run_verb("check", __doc__, _add_arguments, _check, argv)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_argument(parser)
    parser.add_argument("--verify", action="store_true", help="read every file again")
    add_json_argument(parser)


def _check(args: argparse.Namespace) -> None:
    from store_engine.runs.inspect_run import inspect_run

    report = inspect_run(args.run, args.verify)
    num_changes, problem = _journal(args.run)
    bad = [*report.not_whole, *(["journal.db"] if problem else [])]
    if args.json:
        print_json(_as_json(report, num_changes, problem))
    else:
        journal = f"journal: {problem or f'whole, {num_changes:,} changes'}"
        verdict = "not all is whole" if bad else "all is whole"
        for line in [*_in_words(args.run, report), journal, verdict]:
            print(printable(line))
    if bad:
        raise InputError(f"{args.run}: not whole: {', '.join(bad)}")


def _journal(root: Path) -> tuple[int, str | None]:
    """How many changes the journal holds, and what is wrong with it."""
    from store_engine.live.journal import Journal
    from store_engine.runs.run_paths import RunPaths

    if not RunPaths(root).journal.exists():
        return 0, None
    try:
        return sum(1 for _ in Journal.open(root).changes()), None
    except InputError as error:
        return 0, str(error)


def _in_words(root: Path, report: "RunReport") -> list[str]:
    """The report as lines for the eye."""
    manifest = report.manifest
    created = f" on {manifest.created}" if manifest.created else ""
    lines = [
        f"{root}: format {manifest.format}, begun by store_engine {manifest.version}{created}, "
        f"data set {manifest.dataset!r}",
        *([] if manifest.parent is None else [_of_parent(manifest.parent)]),
        f"training: {report.stage}",
        f"lock: {f'held by {report.owner}' if report.owner else 'free'}",
        f"config: {report.config or 'whole'}",
    ]
    unbound = {name for name, entry in manifest.files.items() if not entry.sha256}
    for file in report.files:
        whole = "there (format 1 has no digest of it)" if file.name in unbound else "whole"
        lines.append(f"  {file.name:<32} {file.num_bytes:>15,} bytes  {file.problem or whole}")
    lines += [f"  {name:<32} {'':>15}        not part of a run" for name in report.unlisted]
    return lines


def _of_parent(parent: "Lineage") -> str:
    return f"goes on from {parent.run_dir}, begun on {parent.created}, weights {parent.weights}"


def _as_json(report: "RunReport", num_changes: int, problem: str | None) -> dict[str, Any]:
    manifest = report.manifest
    return {
        "is_whole": not report.not_whole and problem is None,
        "journal": {"changes": num_changes, "problem": problem},
        "format": manifest.format,
        "version": manifest.version,
        "dataset": manifest.dataset,
        "created": manifest.created,
        "parent": None if manifest.parent is None else manifest.parent._asdict(),
        "stage": report.stage,
        "lock": report.owner,
        "config": report.config,
        "files": [file._asdict() for file in report.files],
        "unlisted": report.unlisted,
    }
