"""A trained run in the place of random weights: the option of all that decodes the cases."""

import argparse
from dataclasses import replace
from pathlib import Path

from benchmarks.decoding.cases import Case, Dtype
from benchmarks.decoding.engines import random_engine
from benchmarks.measuring.harness import Options
from store_engine.decoding.engine import Engine


def add_options(parser: argparse.ArgumentParser) -> None:
    """The option of what decodes these cases."""
    parser.add_argument("--run", metavar="DIR", help="decode a trained run, not random weights")


def wanted_cases(options: Options, cases: list[Case]) -> list[Case]:
    """The cases that --cases selects, with --run's model in the place of theirs."""
    if options.extra.run:
        cases = [replace(case, model=Path(options.extra.run).name) for case in cases]
    return [case for case in dict.fromkeys(cases) if options.wants(case.name)]


def make_engine(options: Options, case: Case, dtype: Dtype) -> Engine:
    """The engine of a case: the same weights in every dtype, and no prefix cache."""
    run_dir, device = options.extra.run, options.device
    if run_dir:
        return Engine.load(run_dir, device=device, dtype=dtype, prefix_cache_mib=0)
    return random_engine(case, device, dtype)
