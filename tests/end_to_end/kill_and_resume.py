"""Kills a training of tiny.toml at random moments, resumes it to its end, and compares the end.

python tests/end_to_end/kill_and_resume.py --points 500
python tests/end_to_end/kill_and_resume.py --points 100 --set train.dtype=bfloat16 \\
    --set recommender.scoring=1 --set train.eval_every=8 --set train.keep=best

There is dropout, unless --set model.dropout=0 takes it away, and every key of a config can be set:
what the shipped configs use is tried this way. Half of the lives end by SIGKILL after a random
time, half at a random one of the moments when a file of the run is opened, renamed, made or
removed. After every kill the run must stand where its last checkpoint says, at most `save_every`
steps behind its log; once it got through, SIDs, weights, losses and metrics must be those of a run
that nobody killed. Lives are forks of one process that imported everything: a life costs a second,
not ten.
"""

import argparse
import collections
import contextlib
import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch._inductor.compile_fx  # noqa: F401 - else every life imports it anew, for seconds
from deepspeed.runtime.zero.muon import original_muon  # noqa: F401 - likewise
from safetensors.numpy import load_file

from store_engine.config import load_config
from store_engine.sid.sid_table import SidTable
from store_engine.train import main
from store_engine.training.distributed.progress import read_progress
from store_engine.training.log import read_log

ROOT = Path(__file__).parents[2]
STAGES = ("tokenizer", "recommender")
ALWAYS = ["--resume", "train.threads=1", "model.dropout=0.2"]
CLOCK = ("tokens_per_s", "share_of_peak", "wall_s")
MOMENTS = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir"}


class Life(NamedTuple):
    """How one process of a run ended."""

    is_killed: bool
    wall_s: float


class Death(NamedTuple):
    """When a life ends by SIGKILL; at neither, it does not."""

    after_s: float = 0.0
    at_moment: int = 0  # the number of a file event


NEVER = Death()


def live(
    run_dir: Path, arguments: list[str], death: Death = NEVER, count_to: Path | None = None
) -> Life:
    """Trains until the end, or until SIGKILL; returns how it ended."""
    began = time.perf_counter()
    output, after_s = run_dir.with_suffix(".out"), death.after_s
    child = os.fork()
    if child == 0:
        _be_born([*ALWAYS, *arguments], run_dir, output, death.at_moment, count_to)
    if after_s:
        while not (ended := os.waitpid(child, os.WNOHANG))[0]:
            if time.perf_counter() - began > after_s:
                os.kill(child, signal.SIGKILL)
            time.sleep(0.002)
    else:
        ended = os.waitpid(child, 0)
    if os.WIFSIGNALED(ended[1]) and os.WTERMSIG(ended[1]) == signal.SIGKILL:
        return Life(True, time.perf_counter() - began)
    assert ended[1] == 0, f"status {ended[1]}: {output.read_text()[-3000:]}"
    return Life(False, time.perf_counter() - began)


def _be_born(
    arguments: list[str], run_dir: Path, output: Path, at_moment: int, count_to: Path | None
) -> None:
    """The child's whole life; never returns."""
    status = 70
    moments = 0

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal moments
        if event in MOMENTS and str(run_dir) in str(arguments[0]):
            moments += 1
            if moments == at_moment:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    with contextlib.suppress(BaseException):
        out = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1)
        os.dup2(out, 2)
        status = main([*arguments, f"run_dir={run_dir}"])
        if count_to is not None:
            count_to.write_text(str(moments))
    os._exit(status)


def phase(run_dir: Path) -> str:
    """What the run was about when it was killed."""
    made = ["run.json", "tokenizer.safetensors", "sids.npz", "model.safetensors", "metrics.json"]
    after = ["data", "tokenizer", "discretisation", "recommender", "evaluation", "the end"]
    return after[sum((run_dir / name).exists() for name in made)]


def standing(run_dir: Path, save_every: int) -> tuple[tuple[int, int], int]:
    """Where the run's checkpoint stands (stage, step), and how many logged steps are behind it."""
    position, lost = (0, 0), 0
    for i, stage in enumerate(STAGES):
        logged = [e["step"] for e in read_log(run_dir / "train_log.jsonl") if e["stage"] == stage]
        assert logged == list(range(1, len(logged) + 1)), f"{stage}: gaps in the log: {logged}"
        saved = read_progress(run_dir / "checkpoints" / stage)
        if logged or saved:
            step = saved.step if saved else 0
            position, lost = (i, step), max(0, len(logged) - step)
    assert lost <= save_every, f"{lost} steps lost, save_every is {save_every}"
    if (run_dir / "tokenizer.safetensors").exists():
        # the first stage is done, also while the second one begins again and has logged nothing
        position = max(position, (1, 0))
    return position, lost


def assert_same_end(run_dir: Path, reference: Path) -> None:
    """SIDs, weights, every step's losses and the metrics of both runs are the same, to the bit."""
    ours, theirs = (SidTable.load(d / "sids.npz").sids for d in (run_dir, reference))
    assert np.array_equal(ours, theirs)
    weights = ["tokenizer.safetensors", "model.safetensors", "scoring.safetensors"]
    for name in (name for name in weights if (reference / name).exists()):
        ours, theirs = load_file(run_dir / name), load_file(reference / name)
        assert ours.keys() == theirs.keys()
        assert all(np.array_equal(ours[key], theirs[key]) for key in theirs), name
    ours, theirs = (
        [
            {name: value for name, value in entry.items() if name not in CLOCK}
            for entry in read_log(d / "train_log.jsonl")
        ]
        for d in (run_dir, reference)
    )
    assert ours == theirs
    ours, theirs = (json.loads((d / "metrics.json").read_text()) for d in (run_dir, reference))
    assert ours["metrics"] == theirs["metrics"]
    assert ours.get("scoring") == theirs.get("scoring")


def kill_and_resume(folder: Path, points: int, seed: int, arguments: list[str]) -> dict[str, Any]:
    """Kills `points` times, over as many runs as that takes; returns what happened."""
    rng = np.random.default_rng(seed)
    reference = folder / "reference"
    whole = live(reference, arguments, count_to=folder / "moments")
    save_every = load_config(reference / "config.toml").train.save_every
    num_moments = int((folder / "moments").read_text())
    kills, phases, most_lost, num_runs = 0, collections.Counter[str](), 0, 0
    while kills < points:
        run_dir, before = folder / f"run{num_runs}", (0, 0)
        is_alive = True
        while is_alive:
            # short lives: many kills for the price of one run, yet long enough to get ahead
            death = Death(after_s=rng.uniform(0, whole.wall_s / 3))
            if kills % 2:
                death = Death(at_moment=int(rng.integers(1, num_moments // 3)))
            death = death if kills < points else NEVER
            is_alive = live(run_dir, arguments, death).is_killed
            kills += is_alive
            if is_alive:
                phases[phase(run_dir)] += 1
            after, lost = standing(run_dir, save_every)
            assert after >= before, f"the run fell back from {before} to {after}"
            before, most_lost = after, max(most_lost, lost)
        assert_same_end(run_dir, reference)
        num_runs += 1
    return {"kills": kills, "runs": num_runs, "most_steps_lost": most_lost, **phases}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--config", default="configs/tiny.toml")
    parser.add_argument("--ds_config", default="configs/zero3.json")
    parser.add_argument(
        "--set", action="append", default=[], metavar="section.key=value", help="of the config"
    )
    args = parser.parse_args()
    arguments = ["--config", args.config, "--ds_config", args.ds_config, *args.set]
    os.chdir(ROOT)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        report = kill_and_resume(Path(folder), args.points, args.seed, arguments)
    print(json.dumps(report | {"wall_s": round(time.perf_counter() - began)}))
