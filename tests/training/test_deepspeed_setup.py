import itertools
import json

import pytest
import torch

from store_engine.config import TrainConfig
from store_engine.errors import InputError
from store_engine.training.deepspeed_setup import choose_dtype, read_ds_config
from store_engine.training.loop import learning_rate


def write(tmp_path, text):
    path = tmp_path / "ds.json"
    path.write_text(text)
    return path


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_our_configs_follow_the_runs_dtype(stage):
    for dtype, is_bf16 in (("bfloat16", True), ("float32", False)):
        config = read_ds_config(f"configs/zero{stage}.json", TrainConfig(dtype=dtype))
        assert config["bf16"]["enabled"] is is_bf16
        assert config["zero_optimization"]["stage"] == stage
        assert config["gradient_clipping"] == TrainConfig().grad_clip


def test_what_the_user_states_stays(tmp_path):
    stated = {"bf16": {"enabled": False}, "gradient_clipping": 0.5}
    path = write(tmp_path, json.dumps(stated))
    config = read_ds_config(path, TrainConfig(dtype="bfloat16"))
    assert (config["bf16"]["enabled"], config["gradient_clipping"]) == (False, 0.5)


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "not valid JSON"), ('{"optimizer": {}}', "'optimizer' is set by the run's config")],
    ids=["json", "optimizer"],
)
def test_bad_configs_are_refused(text, message, tmp_path):
    with pytest.raises(InputError, match=message):
        read_ds_config(write(tmp_path, text), TrainConfig())


def test_a_missing_config_is_named(tmp_path):
    with pytest.raises(InputError, match=r"--ds_config .*none\.json: No such file"):
        read_ds_config(tmp_path / "none.json", TrainConfig())


def test_a_stated_dtype_is_taken():
    assert choose_dtype(TrainConfig(dtype="float32")) == torch.float32
    assert choose_dtype(TrainConfig(dtype="bfloat16")) == torch.bfloat16


def test_learning_rate_warms_up_and_falls_to_its_floor():
    train = TrainConfig(warmup=0.1, min_lr=0.05)
    rates = [learning_rate(train, 2.0, step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.2)
    assert rates[9] == rates[10] == max(rates) == 2.0
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))
    assert rates[-1] == pytest.approx(0.1, abs=0.01)
