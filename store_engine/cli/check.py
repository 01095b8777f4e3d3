"""Says what is whole in a run directory, and what is missing or damaged.

store-engine check runs/ml100k
store-engine check runs/ml100k --verify     # reads every file again, the checkpoints too

The exit status is 0 if all is whole, also in a run that still trains, and 2 if something is not.
"""

import argparse
import json
import sys
from pathlib import Path

from store_engine.errors import InputError
from store_engine.runs.inspect_run import RunReport, inspect_run


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="store-engine check",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="the run directory")
    parser.add_argument("--verify", action="store_true", help="read every file again")
    parser.add_argument("--json", action="store_true", help="print JSON instead of lines")
    args = parser.parse_args(argv)
    try:
        report = inspect_run(args.run, args.verify)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(as_json(report) if args.json else in_words(args.run, report))
    return 0 if report.is_whole else 2


def in_words(root: Path, report: RunReport) -> str:
    """The report as lines for the eye."""
    manifest = report.manifest
    lines = [
        f"{root}: format {manifest.format}, begun by store_engine {manifest.version}"
        f"{f' on {manifest.created}' if manifest.created else ''}, data set {manifest.dataset!r}",
        f"training: {report.stage}",
        f"lock: {f'held by {report.owner}' if report.owner else 'free'}",
        f"config: {report.config or 'whole'}",
    ]
    unbound = {name for name, entry in manifest.files.items() if not entry.sha256}
    for file in report.files:
        whole = "there (format 1 has no digest of it)" if file.name in unbound else "whole"
        state = file.problem or whole
        lines.append(f"  {file.name:<32} {file.num_bytes:>15,} bytes  {state}")
    lines += [f"  {name:<32} {'':>15}        not part of a run" for name in report.unlisted]
    bad = [file.name for file in report.files if file.problem is not None]
    bad += ["config.toml"] if report.config and "config.toml" not in bad else []
    lines.append(f"not whole: {', '.join(bad)}" if bad else "all is whole")
    return "\n".join("".join(c if c.isprintable() else "?" for c in line) for line in lines)


def as_json(report: RunReport) -> str:
    """The report as JSON."""
    files = [file._asdict() for file in report.files]
    manifest = report.manifest
    return json.dumps(
        {
            "is_whole": report.is_whole,
            "format": manifest.format,
            "version": manifest.version,
            "dataset": manifest.dataset,
            "created": manifest.created,
            "stage": report.stage,
            "lock": report.owner,
            "config": report.config,
            "files": files,
            "unlisted": report.unlisted,
        },
        indent=1,
    )


if __name__ == "__main__":
    sys.exit(main())
