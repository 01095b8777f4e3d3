"""Random kills; `python tests/end_to_end/kill_and_resume.py --points 500` makes many."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


# what a run can have beside dropout
FEATURES = [
    "recommender.scoring=1", "train.eval_every=8", "train.eval_users=50", "train.keep=best",
    "train.schedule=wsd", "recommender.epochs=3",
]  # fmt: skip


@pytest.mark.slow
def test_random_kills_lose_nothing():
    command = [sys.executable, "tests/end_to_end/kill_and_resume.py", "--points", "6"]
    command += [part for feature in FEATURES for part in ("--set", feature)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["kills"] >= 6
    assert report["most_steps_lost"] <= 10
