"""A run may go on with another number of ranks, and reaches the same end."""

import pytest
import torch
from forks import run_ranks

from store_engine.model.weights import read_weights
from store_engine.training.distributed.progress import read_progress
from store_engine.training.log import VALIDATION, read_log

ZERO_STAGES = (2, 3)


def train(run_dir, num_ranks, until=0):
    arguments = [run_dir, "--until", until, *(f"configs/zero{stage}.json" for stage in ZERO_STAGES)]
    run_ranks(num_ranks, "tests/training/rank_change.py", *arguments)


@pytest.fixture(scope="module")
def run_dirs(tmp_path_factory):
    """Trained by one rank in one go; by two ranks, then one, then two."""
    whole, changed = (tmp_path_factory.mktemp(name) for name in ("whole", "changed"))
    train(whole, 1)
    train(changed, 2, until=4)
    train(changed, 1, until=9)
    train(changed, 2)
    return whole, changed


@pytest.mark.slow
@pytest.mark.parametrize("zero_stage", ZERO_STAGES)
def test_two_ranks_then_one_then_two_reach_the_same_end(zero_stage, run_dirs):
    whole, changed = (run_dir / f"zero{zero_stage}" for run_dir in run_dirs)
    progress = read_progress(changed / "checkpoints" / "recommender")
    assert progress.num_ranks == 2
    want, got = (read_log(run_dir / "train_log.jsonl") for run_dir in (whole, changed))
    assert len(want) == progress.step > 12
    assert [entry["step"] for entry in got] == [entry["step"] for entry in want]
    for ours, theirs in zip(got, want, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-4)
        assert (
            (VALIDATION in ours)
            == (VALIDATION in theirs)
            == (ours["step"] % 3 == 0 or ours["step"] == progress.step)
        )
        if VALIDATION in ours:
            assert ours[VALIDATION] == pytest.approx(theirs[VALIDATION], abs=1e-4)
    want, got = (read_weights(run_dir / "model.safetensors") for run_dir in (whole, changed))
    for name, tensor in want.items():
        torch.testing.assert_close(got[name], tensor, atol=1e-3, rtol=0, msg=name)
