import json

import pytest
import torch
from deepspeed.ops.op_builder import AsyncIOBuilder

from store_engine.config import TrainConfig
from store_engine.errors import InputError
from store_engine.model import dtype
from store_engine.training.distributed.deepspeed_setup import (
    is_compiled,
    read_ds_config,
    set_threads,
    training_dtype,
)


def write(tmp_path, text):
    path = tmp_path / "ds.json"
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", ["zero0", "zero1", "zero2", "zero3", "zero3_offload"])
def test_our_configs_follow_the_runs_dtype(name):
    for name_of_dtype, is_bf16 in (("bfloat16", True), ("float32", False)):
        config = read_ds_config(f"configs/{name}.json", TrainConfig(dtype=name_of_dtype))
        assert config["bf16"]["enabled"] is is_bf16
        assert config["zero_optimization"]["stage"] == int(name[4])
        assert config["gradient_clipping"] == TrainConfig().grad_clip


@pytest.mark.parametrize("is_there", [True, False])
def test_nvme_says_what_it_needs(is_there, monkeypatch):
    monkeypatch.setattr(AsyncIOBuilder, "is_compatible", lambda self, verbose=False: is_there)
    if is_there:
        read_ds_config("configs/zero3_nvme.json", TrainConfig())
    else:
        with pytest.raises(InputError, match="offload to NVMe needs the library libaio"):
            read_ds_config("configs/zero3_nvme.json", TrainConfig())


def test_what_the_user_states_stays(tmp_path):
    stated = {"bf16": {"enabled": False}, "gradient_clipping": 0.5}
    path = write(tmp_path, json.dumps(stated))
    config = read_ds_config(path, TrainConfig(dtype="bfloat16"))
    assert (config["bf16"]["enabled"], config["gradient_clipping"]) == (False, 0.5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "must hold a JSON object"),
        ('{"optimizer": {}}', "'optimizer' is set by the run's config"),
        ('{"train_batch_size": 8}', "'train_batch_size' is set by the run's config"),
        ('{"bf16": true}', "'bf16' must be a section"),
        ('{"bf16": {"enabled": "yes"}}', "'bf16.enabled' must be true, false or"),
        ('{"bf16": {"enabled": 1.5}}', "'bf16.enabled' must be true, false or"),
        ('{"fp16": []}', "'fp16' must be a section"),
        ('{"zero_optimization": []}', "'zero_optimization' must be a section"),
        ('{"zero_optimization": 3}', "'zero_optimization' must be a section"),
        ('{"zero_optimization": {"stage": "3"}}', "'zero_optimization.stage' must be 0, 1, 2 or 3"),
        ('{"zero_optimization": {"stage": 7}}', "'zero_optimization.stage' must be 0, 1, 2 or 3"),
        ('{"zero_optimization": {"stage": true}}', "'zero_optimization.stage' must be"),
        (
            '{"zero_optimization": {"stage": 3, "offload_param": "cpu"}}',
            "'zero_optimization.offload_param' must be a section",
        ),
        (
            '{"zero_optimization": {"stage": 3, "reduce_bucket_size": "big"}}',
            "DeepSpeed refuses it: .*reduce_bucket_size",
        ),
        ('{"zero_optimization": {"stage": 3, "nonsense": 1}}', "DeepSpeed refuses it: .*nonsense"),
        ('{"gradient_accumulation_steps": "2"}', "must be a whole number of at least 1, is '2'"),
        ('{"gradient_accumulation_steps": 0}', "must be a whole number of at least 1, is 0"),
        ('{"gradient_accumulation_steps": 1.5}', "must be a whole number of at least 1, is 1.5"),
        ('{"gradient_clipping": "x"}', "'gradient_clipping' must be a number"),
        ('{"gradient_clipping": -1}', "'gradient_clipping' must be a number"),
        ('{"gradient_clipping": [1]}', "'gradient_clipping' must be a number"),
        ('{"checkpoint": 3}', "'checkpoint' must be a section"),
        ('{"aio": []}', "'aio' must be a section"),
        ('{"activation_checkpointing": [1]}', "'activation_checkpointing' must be a section"),
        ('{"flops_profiler": []}', "DeepSpeed refuses it"),
        ('{"tensorboard": 1}', "DeepSpeed refuses it: .*tensorboard"),
        ('{"communication_data_type": 3}', "DeepSpeed refuses it"),
    ],
    ids=lambda x: x if x.startswith("{") or x.startswith("[") else "",
)
def test_bad_configs_are_refused(text, message, tmp_path):
    with pytest.raises(InputError, match=message) as caught:
        read_ds_config(write(tmp_path, text), TrainConfig())
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("--ds_config")


def test_a_missing_config_is_named(tmp_path):
    with pytest.raises(InputError, match=r"--ds_config .*none\.json: No such file"):
        read_ds_config(tmp_path / "none.json", TrainConfig())


def test_a_stated_dtype_is_taken():
    assert training_dtype(TrainConfig(dtype="float32")) == torch.float32
    assert training_dtype(TrainConfig(dtype="bfloat16")) == torch.bfloat16


@pytest.mark.parametrize(
    ("threads", "stated", "before", "num_threads", "reason"),
    [
        (3, "2", 4, 3, "as requested"),
        (0, "2", 4, 2, "OMP_NUM_THREADS"),
        (0, "", 4, 4, "as before the interruption"),
        (0, "abc", 4, 4, "as before the interruption"),
    ],
    ids=["config", "environment", "resumed", "resumed, bad environment"],
)
def test_threads_are_chosen_once(threads, stated, before, num_threads, reason, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", stated)
    set_to = []
    monkeypatch.setattr(torch, "set_num_threads", set_to.append)
    assert set_threads(TrainConfig(threads=threads), before) == (num_threads, reason)
    assert set_to == [num_threads]


@pytest.mark.parametrize(
    ("device", "zero_stage", "overrides", "want"),
    [
        ("cpu", 0, {}, False),
        ("cuda", 2, {}, True),
        ("cuda", 3, {}, False),
        ("cuda", 0, {"activation_checkpointing": True}, False),
        ("cuda", 0, {"compile": False}, False),
        ("cpu", 0, {"compile": True}, True),
    ],
)
def test_layers_are_compiled_where_it_pays(device, zero_stage, overrides, want, monkeypatch):
    monkeypatch.setattr(dtype, "choose_device", lambda name: torch.device(device))
    assert is_compiled(TrainConfig(**overrides), zero_stage) == want


def test_zero3_does_not_go_with_compiled_layers():
    with pytest.raises(InputError, match="ZeRO-3 gathers weights inside of a layer"):
        read_ds_config("configs/zero3.json", TrainConfig(compile=True))
