"""What preparing data costs: time and peak memory of `store-engine prepare` on synthetic events.

    python benchmarks/prepare.py --events 1000000 --recbole-python VENV/bin/python
    python benchmarks/prepare.py --events 100000000 --folder /data/scratch

Events are RecBole's atomic file (user, item, time; items by a power law, times in random order, one
event in a hundred written twice); both providers filter to a 5-core and sort by user and time. A
repetition is a whole process. Providers:
    ours       store-engine prepare, out of core, with its report and data card
    recbole    RecBole's create_dataset and build (leave-one-out), where --recbole-python has it
Memory is the process's largest resident set, as the kernel counts it.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv

# run as a script, only benchmarks/ is on the path, whose kernels.py must not hide a package's
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import ROOT
from benchmarks.measuring.harness import Options, Report, parse_options

ROWS_PER_CHUNK = 1 << 20
MIN_EVENTS = 5
RECBOLE = """
import sys
import numpy as np
# RecBole 1.2.1 asks for names that NumPy 2 dropped
np.float_, np.complex_, np.unicode_ = np.float64, np.complex128, np.str_
from recbole.config import Config
from recbole.data import create_dataset
sys.argv = sys.argv[:1]
config = Config("SASRec", "events", config_dict={
    "data_path": FOLDER, "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
    "user_inter_num_interval": "[5,inf)", "item_inter_num_interval": "[5,inf)",
    "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "full"},
    "train_neg_sample_args": None, "show_progress": False, "use_gpu": False})
dataset = create_dataset(config)
print(dataset)
dataset.build()
"""


def write_events(path: Path, num_events: int, seed: int = 0) -> None:
    """Writes synthetic events as a RecBole .inter file, a chunk at a time."""
    generator = np.random.default_rng(seed)
    num_users, num_items = max(num_events // 12, 10), max(min(num_events // 30, 2_000_000), 10)
    names = ("user_id:token", "item_id:token", "timestamp:float")
    schema = pa.schema(list(zip(names, (pa.string(), pa.string(), pa.int64()), strict=True)))
    options = pa.csv.WriteOptions(delimiter="\t", quoting_style="none", quoting_header="none")
    with pa.csv.CSVWriter(path, schema, write_options=options) as out:
        for begin in range(0, num_events, ROWS_PER_CHUNK):
            count = min(ROWS_PER_CHUNK, num_events - begin)
            users = (num_users * generator.random(count) ** 2).astype(np.int64)
            items = (num_items * generator.random(count) ** 3).astype(np.int64)
            times = generator.integers(1_500_000_000, 1_600_000_000, count)
            again = np.flatnonzero(generator.random(count) < 0.01)
            again = again[again > 0]
            for values in (users, items, times):
                values[again] = values[again - 1]
            texts = (np.char.add("U", users.astype("U9")), np.char.add("B", items.astype("U9")))
            columns = [pa.array(text, pa.string()) for text in texts]
            out.write_table(pa.table([*columns, pa.array(times)], schema=schema))


class Cost(NamedTuple):
    """What a process took."""

    wall_s: float
    cpu_s: float  # of all threads: what other work on the machine changes least
    peak_mib: float


def run_process(command: Sequence[str], threads: int) -> Cost:
    """Runs a process to its end.

    Raises:
        RuntimeError: It failed.
    """
    env = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT)}
    begin = time.perf_counter()
    process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)[:200]}: exit {process.returncode}")
    wall_s = time.perf_counter() - begin
    return Cost(wall_s, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--events", type=int, default=1_000_000, help="how many (10^6)")
    parser.add_argument("--folder", type=Path, help="where files go, and are removed again")
    parser.add_argument("--recbole-python", metavar="FILE", help="a Python that has RecBole")
    parser.add_argument("--memory", type=float, default=2.0, metavar="GIB", help="as prepare's")


def _commands(options: Options, folder: Path) -> dict[str, list[str]]:
    source, out = folder / "events", folder / "out"
    ours = [sys.executable, "-m", "store_engine", "prepare", str(source), "--out", str(out)]
    ours += ["--min-user", str(MIN_EVENTS), "--min-item", str(MIN_EVENTS), "--overwrite"]
    ours += ["--memory", str(options.extra.memory)]
    commands = {"ours": ours}
    if options.extra.recbole_python:
        code = RECBOLE.replace("FOLDER", repr(str(folder)))
        commands["recbole"] = [options.extra.recbole_python, "-c", code]
    return commands


def main() -> None:
    """Makes the events, then prepares them by each provider."""
    options = parse_options("prepare", __doc__, _add_arguments, has_gpu=False)
    report = Report("prepare", options)
    num_events = options.extra.events
    case = f"events={num_events:,}"
    folder = Path(tempfile.mkdtemp(dir=options.extra.folder))
    try:
        (folder / "events").mkdir()
        write_events(folder / "events" / "events.inter", num_events)
        commands = _commands(options, folder)
        for provider, command in commands.items():
            for metric, value in run_process(command, options.threads)._asdict().items():
                report.add(provider, case, metric, metric.rpartition("_")[2], value)
        if "recbole" in commands:
            report.add_ratio("ours", "recbole", case, "cpu_s")
    finally:
        shutil.rmtree(folder)
    report.finish()


if __name__ == "__main__":
    main()
