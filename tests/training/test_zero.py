"""One seed, one loss: whatever ZeRO stage and however many ranks."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
DEEPSPEED = Path(sys.executable).with_name("deepspeed")


def train(zero_stage, num_ranks, tmp_path):
    out = tmp_path / f"zero{zero_stage}-{num_ranks}.json"
    command = [DEEPSPEED, "--num_accelerators", str(num_ranks), "--master_port", "29617"]
    command += ["tests/training/zero_losses.py", f"configs/zero{zero_stage}.json", out]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(out.read_text())


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    return train(0, 1, tmp_path_factory.mktemp("zero"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("zero_stage", "num_ranks"), [(3, 1), (3, 2), (0, 2), (1, 2), (2, 2)], ids=str
)
def test_losses_agree_over_20_steps(zero_stage, num_ranks, reference, tmp_path):
    got = train(zero_stage, num_ranks, tmp_path)
    for name, losses in reference["losses"].items():
        assert len(losses) == 20
        assert losses[-1] < losses[0]
        np.testing.assert_allclose(got["losses"][name], losses, atol=1e-4, rtol=0)
        for parameter, norm in reference["norms"][name].items():
            assert got["norms"][name][parameter] == pytest.approx(norm, abs=2e-3), parameter
