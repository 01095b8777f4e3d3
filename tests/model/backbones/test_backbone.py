import json
import os

import pytest
import torch
from llama3_rope import LLAMA3
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from store_engine.config import load_config
from store_engine.errors import InputError
from store_engine.model.backbones.backbone import Backbone

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
        ({"num_hidden_layers": 10**9}, r"model\.num_layers must be in \[1, 1024\], got 1000000000"),
        ({"num_hidden_layers": 10**400}, "num_hidden_layers must be a positive number, got 1000"),
        ({"num_attention_heads": 0}, "num_attention_heads must be a positive number, got 0"),
        ({"num_attention_heads": True}, "num_attention_heads must be a positive number, got True"),
        ({"hidden_size": 1e308}, "hidden_size must be a positive number"),
        ({"head_dim": 7}, "head_dim"),
        ({"rope_parameters": {"rope_theta": 0}}, "rope_theta must be a positive number, got 0"),
        ({"rope_parameters": {"rope_theta": 1e-9}}, r"model\.rope_theta must be in"),
        ({"rope_parameters": {"rope_theta": "1e4"}}, "rope_theta must be a positive number"),
        ({"rope_parameters": [1]}, "rope_parameters must be an object"),
        ({"rms_norm_eps": -1e-6}, "rms_norm_eps must be a positive number, got -1e-06"),
        ({"rms_norm_eps": 5.0}, r"model\.norm_eps must be in"),
        ({"attention_bias": "no"}, "attention_bias must be true or false, got 'no'"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings must be true or false, got '1'"),
        ({"model_type": ["llama"]}, "model_type must be one of"),
        ({"model_type": "llama\n\x1b[31m"}, r"got llama\\n\\x1b\[31m"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_ours_does_not_compute_is_refused(changes, message, folder):
    edit(folder / "config.json", **changes)
    with pytest.raises(InputError, match=message):
        Backbone(folder)


def change_tensor(folder, name, change):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors[name] = change(tensors[name])
    save_file(tensors, path)


def set_first(value):
    def change(tensor):
        tensor.view(-1)[0] = value
        return tensor

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x.long(), "must be of type F32, BF16, F16, is I64"),
        (lambda x: x.to(torch.complex64), "must be of type F32, BF16, F16, is C64"),
        (lambda x: x.double(), "must be of type F32, BF16, F16, is F64"),
        (set_first(float("nan")), "holds NaN or infinity: 1 of"),
        (set_first(float("inf")), "holds NaN or infinity: 1 of"),
    ],
    ids=["int64", "complex64", "float64", "nan", "inf"],
)
@pytest.mark.parametrize(
    "name", ["model.norm.weight", "model.embed_tokens.weight", "model.layers.1.mlp.up_proj.weight"]
)
def test_what_no_weight_can_be_is_refused(folder, name, change, message):
    change_tensor(folder, name, change)
    with pytest.raises(InputError, match=rf"tensor '{name}' {message}"):
        list(Backbone(folder).weights(50))


@pytest.mark.parametrize(
    "name",
    [
        *("../a.safetensors", "/etc/a.safetensors", "b/a.safetensors", "..", "a.bin", ""),
        *("a\0.safetensors", "\ud800.safetensors", 5, None, ["a.safetensors"]),
    ],
    ids=range(11),
)
def test_an_index_names_files_beside_it(folder, name):
    index = json.dumps({"weight_map": {"model.norm.weight": name}})
    (folder / "model.safetensors.index.json").write_text(index)
    with pytest.raises(
        InputError, match=r"model\.safetensors\.index\.json|No such file|not a path"
    ):
        Backbone(folder)


def test_a_tensor_in_two_shards(folder):
    (folder / "b.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    names = {"x": "model.safetensors", "y": "b.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    with pytest.raises(InputError, match=r"tensor '.*' is in b\.safetensors too"):
        Backbone(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("kind", ["fifo", "folder", "device"])
def test_what_is_no_regular_file_is_refused(folder, name, kind):
    path = folder / name
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(InputError, match=r"regular file|holds neither model"):
        Backbone(folder)


@pytest.mark.parametrize("path", ["a\0b", "x" * 5000, "none", "config.json"], ids=range(4))
def test_what_is_no_backbone(folder, path):
    with pytest.raises(InputError):
        Backbone(folder / path)


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
