"""Times a run's recommendations on this machine, beside the same search in plain PyTorch.

store-engine bench runs/ml100k
store-engine bench runs/ml100k --batch 1 32 -k 50 --device cuda
OMP_NUM_THREADS=1 store-engine bench runs/ml100k --json        # what one thread gives

Histories are those of test users (of an imported run, which has none: random items), without a
prefix cache; all ways take turns, so that a busy machine slows all of them down alike. Plain
PyTorch gives every beam its own copy of the keys and values. "same items" says which share of the
engine's items the other way finds too: less than 100 % is rounding, in bfloat16 above all, or
evidence.
"""

import argparse

from store_engine.cli.main import (
    add_device_argument,
    add_json_argument,
    add_run_argument,
    print_json,
    run_verb,
)


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    return run_verb("bench", __doc__, _add_arguments, _bench, argv)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_argument(parser)
    parser.add_argument("-k", type=int, default=20, help="items wanted, and beams (default 20)")
    parser.add_argument(
        "--batch", type=int, nargs="+", default=[1, 16], metavar="N", help="histories of a call"
    )
    parser.add_argument(
        "--seconds", type=float, default=3.0, help="for each way to search (default 3)"
    )
    parser.add_argument(
        "--dtype",
        choices=["float32", "bfloat16"],
        help="of the weights (default: the run's decoding.dtype)",
    )
    add_device_argument(parser)
    add_json_argument(parser)


def _bench(args: argparse.Namespace) -> None:
    # here, because it takes seconds that --help need not wait for
    import torch

    from store_engine.evaluation.latency import LatencySettings, measure_latency

    settings = LatencySettings(args.k, tuple(args.batch), args.seconds, args.device, args.dtype)
    rows = measure_latency(args.run, settings)
    if args.json:
        print_json({"threads": torch.get_num_threads(), "rows": rows})
        return
    from rich.table import Table

    from store_engine.terminal import make_console

    threads = torch.get_num_threads()
    table = Table(title=f"milliseconds of a call, top {args.k}, {threads} thread(s)")
    table.add_column("")
    for name in ("batch", "p50", "p95", "requests/s", "x plain", "same items"):
        table.add_column(name, justify="right")
    for row in rows:
        faster = "" if row["times_faster"] is None else f"{row['times_faster']:.1f}"
        figures = [f"{row['p50_ms']:.2f}", f"{row['p95_ms']:.2f}", f"{row['requests_per_s']:,.0f}"]
        same = f"{row['same_items']:.1%}"
        table.add_row(row["provider"], str(row["batch_size"]), *figures, faster, same)
    make_console().print(table)
