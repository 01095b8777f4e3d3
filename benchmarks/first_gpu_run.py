"""All that is worth knowing from the first half-hour on a GPU, in one command.

    python benchmarks/first_gpu_run.py --out DIR                 # 30 minutes at most
    python benchmarks/first_gpu_run.py --out DIR --wheels FOLDER # with what the machine lacks
    python benchmarks/first_gpu_run.py --out DIR --parts decode  # some parts, by a regex
    python benchmarks/first_gpu_run.py --out DIR --dry-run       # tiny sizes, no GPU, a minute

Run it from a checkout, with PyTorch installed. Each part is a process of its own with a time
limit of its own; the most valuable come first. What a part prints goes to DIR/PART.log, what it
measures to DIR/PART.csv, as it comes; DIR/summary.json and summary.md are written anew after each.
A part whose module, GPU or time is missing is skipped, with the reason. At the end the predictions
that were made without a GPU stand beside what was measured.
"""

import argparse
import json
import re
import sys
from pathlib import Path

# run as a script, only benchmarks/ is on the path, whose kernels.py must not hide a package's
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.gpu_run.parts import PARTS, Part
from benchmarks.gpu_run.run import Run
from benchmarks.gpu_run.versions import versions


def main() -> int:
    """Runs all parts; 1 if one failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, metavar="DIR")
    parser.add_argument("--parts", default="", metavar="REGEX", help="run matching parts only")
    parser.add_argument("--minutes", type=float, default=30, help="of all parts together")
    parser.add_argument("--wheels", type=Path, metavar="FOLDER", help="installed into DIR/wheels")
    parser.add_argument("--dry-run", action="store_true", help="tiny sizes, without a GPU")
    parser.add_argument("--versions", type=Path, metavar="FILE", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.versions:
        args.versions.write_text(json.dumps(versions(), indent=2) + "\n")
        print(args.versions.read_text())
        return 0
    if args.out is None:
        parser.error("--out DIR is required")
    args.out.mkdir(parents=True, exist_ok=True)
    run = Run(args.out.resolve(), args.dry_run, args.minutes, args.wheels)
    if run.wheels is not None:
        install = ("-m", "pip", "install", "--no-index", "--no-deps", "--target", "{out}/wheels")
        files = tuple(map(str, sorted(run.wheels.resolve().glob("*.whl"))))
        run.do(Part("wheels", install + files, 180, install + files, on_gpu=False))
    for part in PARTS:
        if re.search(args.parts, part.name):
            run.do(part)
    print((run.out / "summary.md").read_text())
    return int(any(result.status == "failed" for result in run.results))


if __name__ == "__main__":
    sys.exit(main())
