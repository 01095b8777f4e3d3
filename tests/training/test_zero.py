"""One seed, one loss: whatever ZeRO stage, number of ranks, offload, recomputation and kernel."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from forks import free_port, run_script

ROOT = Path(__file__).parents[2]
SCRIPT = "tests/training/zero_losses.py"
LAUNCHER = [Path(sys.executable).with_name("deepspeed"), "--num_accelerators", "2"]
TWO_RANKS = {
    "zero0": "train.fused_loss=false",
    "zero1": "train.seed=0",
    "zero2": "train.seed=0",
    "zero3": "train.activation_checkpointing=true",
}


@pytest.fixture(scope="module")
def one_rank(tmp_path_factory):
    """What one rank leaves under zero0.json, the reference, and under zero3_offload.json."""
    folder = tmp_path_factory.mktemp("one")
    run_script(SCRIPT, folder, "zero0", "zero3_offload")
    return folder


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    """What two ranks leave that DeepSpeed's launcher started, once for all cases."""
    folder = tmp_path_factory.mktemp("two")
    cases = [f"{ds_config}:{override}" for ds_config, override in TWO_RANKS.items()]
    command = [*LAUNCHER, "--master_port", free_port(), SCRIPT, folder, *cases]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def read(folder, ds_config):
    return json.loads((folder / f"{ds_config}.json").read_text())


def assert_same(got, reference):
    assert got["vectors"] == reference["vectors"]  # encoded by another number of ranks
    for name, losses in reference["losses"].items():
        assert len(losses) == 20
        assert losses[-1] < losses[0]
        np.testing.assert_allclose(got["losses"][name], losses, atol=1e-4, rtol=0)
        for parameter, norm in reference["norms"][name].items():
            assert got["norms"][name][parameter] == pytest.approx(norm, abs=2e-3), parameter


@pytest.mark.slow
@pytest.mark.parametrize("ds_config", TWO_RANKS)
def test_losses_of_two_ranks_agree_over_20_steps(ds_config, one_rank, two_ranks):
    assert_same(read(two_ranks, ds_config), read(one_rank, "zero0"))


@pytest.mark.slow
def test_losses_with_offload_agree_over_20_steps(one_rank):
    assert_same(read(one_rank, "zero3_offload"), read(one_rank, "zero0"))
