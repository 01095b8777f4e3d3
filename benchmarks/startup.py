"""What it costs to start: a process that imports the package, or shows the command's help.

    python benchmarks/startup.py
    python benchmarks/startup.py --cases help --quick
    python benchmarks/startup.py --run runs/tiny --cases first    # the first recommendation, too

A repetition is a whole process, from its start to its end, on a warm file cache. Providers:
    ours     what the case's name says
    floor    the lower bound: a process that imports torch and numpy, which the package needs
    python   a process that does nothing
"""

import argparse
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

# run as a script, only benchmarks/ is on the path, whose kernels.py must not hide a package's
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import ROOT
from benchmarks.measuring.harness import Report, measure_together, parse_options

NUM_REPEATS = 10
FLOOR = ("-c", "import torch, numpy")
NOTHING = ("-c", "")
FIRST = """
import sys
from store_engine import Engine
engine = Engine.load(sys.argv[1])
assert engine.recommend([engine.catalog.item_ids[:3]])[0]
"""
CASES = {
    "import store_engine": ("-c", "import store_engine"),
    "store-engine --help": ("-m", "store_engine", "--help"),
}


def start(arguments: tuple[str, ...], threads: int) -> str:
    """Runs Python to its end; returns what it printed.

    Raises:
        subprocess.CalledProcessError: It failed.
    """
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    env |= {"OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    return done.stdout


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declares --run."""
    parser.add_argument("--run", type=Path, metavar="DIR", help="a run to recommend from")


def main() -> None:
    """Checks that the commands work, then times them in turn."""
    options = parse_options("startup", __doc__, add_options, has_gpu=False)
    report = Report("startup", options)
    assert "usage" in start(CASES["store-engine --help"], options.threads)
    cases = dict(CASES)
    if options.extra.run is not None:
        cases["the first recommendation"] = ("-c", FIRST, str(options.extra.run))
    for case, arguments in cases.items():
        if options.wants(case):
            commands = {"ours": arguments, "floor": FLOOR, "python": NOTHING}
            runs = {n: partial(start, args, options.threads) for n, args in commands.items()}
            walls = measure_together(runs, options, min_repeats=NUM_REPEATS, budget_s=0)
            for provider, wall in walls.items():
                report.add(provider, case, "wall_ms", "ms", wall)
    report.finish()


if __name__ == "__main__":
    main()
