import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from store_engine.config import load_config
from store_engine.errors import InputError
from store_engine.model.backbone import Backbone

from .conftest import LLAMA3

CASES = {
    "llama": ("llama", {}),
    "llama-tied": ("llama", {"tie_word_embeddings": True, "rms_norm_eps": 1e-2}),
    "llama-biases": ("llama", {"attention_bias": True, "head_dim": 16}),
    "llama3-rope": ("llama", {"rope_parameters": LLAMA3}),
    "qwen2": ("qwen2", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}),
    "qwen2-tied": ("qwen2", {"tie_word_embeddings": True, "num_key_value_heads": 4}),
    "qwen3": ("qwen3", {"head_dim": 16}),
    "qwen3-biases": ("qwen3", {"head_dim": 16, "attention_bias": True}),
}


@pytest.fixture
def folder(make_theirs, tmp_path):
    make_theirs().save_pretrained(tmp_path)
    return tmp_path


def edit(path, **changes):
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | changes))


@pytest.mark.parametrize("shard_size", ["5GB", "20KB"], ids=["one file", "sharded"])
@pytest.mark.parametrize(("family", "changes"), CASES.values(), ids=CASES)
def test_logits_equal_transformers(
    family, changes, shard_size, make_theirs, load_ours, logits, tmp_path
):
    theirs = make_theirs(family, **changes)
    theirs.save_pretrained(tmp_path, max_shard_size=shard_size)
    assert (tmp_path / "model.safetensors.index.json").exists() == (shard_size == "20KB")
    tokens = torch.randint(0, 50, (3, 100))  # beyond LLAMA3's original 64 positions
    with torch.no_grad():
        want = theirs(tokens).logits
    torch.testing.assert_close(logits(load_ours(tmp_path), tokens), want, atol=1e-4, rtol=1e-4)


def test_a_config_of_transformers_4_is_understood(make_theirs, load_ours, logits, tmp_path):
    theirs = make_theirs(rope_parameters=LLAMA3)
    theirs.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    scaling = {k: v for k, v in LLAMA3.items() if k != "rope_theta"}
    edit(path, rope_parameters=None, rope_theta=10000.0, rope_scaling=scaling, head_dim=None)
    tokens = torch.randint(0, 50, (1, 100))
    with torch.no_grad():
        want = theirs(tokens).logits
    torch.testing.assert_close(logits(load_ours(tmp_path), tokens), want, atol=1e-4, rtol=1e-4)


def test_weights_come_in_half_precision_too(make_theirs, load_ours, logits, tmp_path):
    make_theirs().bfloat16().save_pretrained(tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    tokens = torch.randint(0, 50, (1, 20))
    with torch.no_grad():
        want = theirs(tokens).logits
    torch.testing.assert_close(logits(load_ours(tmp_path), tokens), want, atol=1e-4, rtol=1e-4)


def test_rows_beyond_the_tokenizer_are_left_out(folder):
    backbone = Backbone(folder)
    weights = dict(backbone.weights(45))
    assert weights["text_embedding.weight"].shape == weights["text_head.weight"].shape == (45, 32)
    with pytest.raises(ValueError, match="must be at most 50, got 51"):
        next(backbone.weights(51))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "mixtral"}, "model_type must be one of llama, qwen2, qwen3, got mixtral"),
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu' is not supported, only 'silu'"),
        ({"mlp_bias": True}, "mlp_bias = True is not supported"),
        ({"use_sliding_window": True}, "use_sliding_window = True is not supported"),
        ({"quantization_config": {"bits": 4}}, "quantization_config = .* is not supported"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "RoPE scaling 'yarn' is not supported"),
        (
            {"rope_parameters": None, "rope_scaling": {"type": "linear", "factor": 2.0}},
            "RoPE scaling 'linear' is not supported",
        ),
        ({"rope_parameters": {"rope_type": "llama3"}}, "factor must be a positive number"),
        ({"hidden_size": None}, "hidden_size must be a positive number, got None"),
        ({"num_hidden_layers": 1.5}, "num_hidden_layers must be a whole number"),
        ({"intermediate_size": 40}, r"mlp\.gate_proj\.weight' must be \(40, 32\), got \(48, 32\)"),
        ({"num_hidden_layers": 3}, r"no tensor 'model\.layers\.2\."),
        ({"num_hidden_layers": 1}, r"tensor 'model\.layers\.1\..*' has no place in our model"),
        ({"model_type": "qwen2"}, r"no tensor 'model\.layers\.0\.self_attn\.q_proj\.bias'"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_ours_does_not_compute_is_refused(changes, message, folder):
    edit(folder / "config.json", **changes)
    with pytest.raises(InputError, match=message):
        Backbone(folder)


def test_a_pickle_is_never_opened(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04")
    with pytest.raises(InputError, match=r"pytorch_model\.bin is a pickle, which can run code"):
        Backbone(folder)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: (d / "config.json").unlink(), r"config\.json: No such file"),
        (lambda d: (d / "config.json").write_text("{"), r"config\.json: not valid JSON"),
        (lambda d: (d / "config.json").write_text("[]"), "must hold a JSON object"),
        (lambda d: (d / "model.safetensors").unlink(), "neither model.safetensors nor"),
        (lambda d: (d / "model.safetensors").write_bytes(b"x" * 99), "not a readable safetensors"),
        (
            lambda d: (d / "model.safetensors.index.json").write_text(
                '{"weight_map": {"a": "../model.safetensors"}}'
            ),
            "is not a safetensors file beside it",
        ),
        (
            lambda d: (d / "model.safetensors.index.json").write_text(
                '{"weight_map": {"a": "model-00002.safetensors"}}'
            ),
            r"model-00002\.safetensors: not a readable safetensors file",
        ),
    ],
    ids=["no config", "config", "no object", "no weights", "weights", "path", "no shard"],
)
def test_damaged_folders_are_refused(damage, message, folder):
    damage(folder)
    with pytest.raises(InputError, match=message):
        Backbone(folder)


def test_what_is_no_backbone_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"a Hugging Face folder or a \.gguf file"):
        Backbone(tmp_path / "nothing")


def backbone_sizes(path):
    return Backbone(path).sizes


def test_sizes_come_from_the_backbone(folder):
    config = load_config(None, [f"model.backbone={folder}", "model.dropout=0"], backbone_sizes)
    assert (config.model.hidden_size, config.model.intermediate_size) == (32, 48)
    assert config.model.dropout == 0
    agreeing = [f"model.backbone={folder}", "model.hidden_size=32"]
    assert load_config(None, agreeing, backbone_sizes).model.hidden_size == 32


def test_sizes_that_contradict_the_backbone_are_refused(folder):
    # 128 is the default too: what counts is that it was stated
    for override, message in (
        ("model.hidden_size=128", "model.hidden_size = 128 contradicts .*, which has 32"),
        ("model.tie_text_head=true", "model.tie_text_head = True contradicts"),
    ):
        with pytest.raises(InputError, match=message):
            load_config(None, [f"model.backbone={folder}", override], backbone_sizes)
