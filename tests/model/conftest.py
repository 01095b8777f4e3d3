"""Tiny random checkpoints of every family, written by transformers, and GGUF files of them."""

import numpy as np
import pytest
import torch

from store_engine.config import ModelConfig
from store_engine.model.attention import PackedSequences
from store_engine.model.backbones.backbone import Backbone
from store_engine.model.store_model import StoreModel

SIZES = {
    "vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


@pytest.fixture
def make_theirs():
    """make_theirs(family, **changes) -> a random model of transformers in eval mode."""
    transformers = pytest.importorskip("transformers")

    def make(family="llama", **changes):
        config = transformers.AutoConfig.for_model(family, **(SIZES | changes))
        theirs = transformers.AutoModelForCausalLM.from_config(config).eval()
        with torch.no_grad():
            for parameter in theirs.parameters():
                # also norms and biases, so that one put in another's place would show
                parameter.normal_(mean=float(parameter.ndim == 1), std=0.2)
        return theirs

    return make


@pytest.fixture
def load_ours():
    """load_ours(path) -> our model with a backbone's weights, in eval mode."""

    def load(path):
        backbone = Backbone(path)
        config = ModelConfig(**backbone.sizes, dropout=0.0)
        ours = StoreModel(config, backbone.vocab_size)
        parameters = dict(ours.named_parameters())
        for name, tensor in backbone.weights(backbone.vocab_size):
            parameters.pop(name).data.copy_(tensor)
        assert not parameters
        return ours.eval()

    return load


@pytest.fixture
def logits():
    """logits(ours, tokens (batch, length)) -> text logits (batch, length, vocab_size)."""

    @torch.no_grad()
    def run(ours, tokens):
        batch, length = tokens.shape
        sequences = PackedSequences(torch.arange(0, tokens.numel() + 1, length))
        hidden = ours.hidden_states(ours.embed(tokens.flatten()), sequences)
        return (hidden @ ours.text_head.weight.T).view(batch, length, -1)

    return run


@pytest.fixture
def write_gguf(tmp_path):
    """write_gguf(theirs, changes, types) -> a .gguf of a transformers model, as llama.cpp does."""
    gguf = pytest.importorskip("gguf")

    def write(theirs, changes=None, types=None):
        config, family = theirs.config, theirs.config.model_type
        path = tmp_path / f"{family}.gguf"
        writer = gguf.GGUFWriter(path, family)
        values = {
            "embedding_length": config.hidden_size,
            "block_count": config.num_hidden_layers,
            "feed_forward_length": config.intermediate_size,
            "attention.head_count": config.num_attention_heads,
            "attention.head_count_kv": config.num_key_value_heads,
        }
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // 4
        values["attention.key_length"] = head_dim
        for key, value in (values | (changes or {})).items():
            (writer.add_string if isinstance(value, str) else writer.add_uint32)(
                f"{family}.{key}", value
            )
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
        writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
        names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[family.upper()], 2)
        for name, tensor in theirs.state_dict().items():
            if name == "lm_head.weight" and config.tie_word_embeddings:
                continue
            if family == "llama" and (".q_proj." in name or ".k_proj." in name):
                tensor = tensor.unflatten(0, (-1, 2, head_dim // 2)).transpose(1, 2).flatten(0, 2)
            kind = (types or {}).get(tensor.ndim, gguf.GGMLQuantizationType.F32)
            data = gguf.quantize(np.ascontiguousarray(tensor.numpy()), kind)
            writer.add_tensor(names.get_name(name, (".weight", ".bias")), data, raw_dtype=kind)
        if config.rope_parameters["rope_type"] == "llama3":
            plain = config.rope_parameters["rope_theta"] ** -(
                torch.arange(0, head_dim, 2) / head_dim
            )
            factors = plain / theirs.model.rotary_emb.inv_freq
            writer.add_tensor("rope_freqs.weight", factors.numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    return write
