"""Export to Hugging Face: our model is a Llama, Qwen2 or Qwen3, so no number changes, only names.

The exported model has the unified vocabulary: text tokens, then the codes of level 0, level 1, ...
Its head gives logits for all of them; a softmax over one level's slice is what our engine computes.
Item rows and heads, which no family of transformers has, are left out: see `is_plain`.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedModel

from store_engine.config import ModelConfig
from store_engine.errors import InputError
from store_engine.model.backbones.hf_layout import transformer_layout
from store_engine.model.store_model import StoreModel


def export_huggingface(
    model: StoreModel,
    path: str | Path | None = None,
    *,
    bos: int = 1,
    pad: int | None = None,
    max_tokens: int = 4096,
) -> PreTrainedModel:
    """Makes a causal LM of transformers, of the family that ours computes, with our weights.

    Args:
        model: The recommender, or a stage-1 model without codes.
        path: Folder to save it in, for `from_pretrained`; None saves nothing.
        bos: Id of the text token that sequences begin with.
        pad: Id of the token that batches are padded with; None: none is named.
        max_tokens: Longest sequence that the exported config allows.

    Returns:
        The exported model in eval mode, with a copy of the weights.

    Raises:
        InputError: hidden_size is not a multiple of num_heads, which transformers requires, or no
            family has both a norm on q and k and biases on q, k and v alone.
    """
    config = model.config
    if config.hidden_size % config.num_heads:
        raise InputError(
            f"transformers requires hidden_size to be a multiple of num_heads, "
            f"got {config.hidden_size} and {config.num_heads}"
        )
    exported = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(
            **_family(config),
            **_rope(config),
            vocab_size=model.vocabulary.item_offset,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            num_key_value_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            rms_norm_eps=config.norm_eps,
            max_position_embeddings=max_tokens,
            tie_word_embeddings=False,
            bos_token_id=bos,
            pad_token_id=pad,
            eos_token_id=None,  # a SID has a fixed length
        )
    )
    # what a folder's generation_config says would silently join a user's beam search
    exported.generation_config = GenerationConfig(
        bos_token_id=bos, pad_token_id=pad, do_sample=False
    )
    exported.to(model.transformer.norm.weight.dtype)
    exported.load_state_dict(huggingface_state(model), strict=True)
    exported.eval()
    if path is not None:
        exported.save_pretrained(path)
    return exported


def item_weights(model: StoreModel) -> dict[str, Tensor]:
    """The weights that `huggingface_state` leaves out, by our names: item rows and heads."""
    exported = {name for name, _ in transformer_layout(model.config)}
    exported |= {f"{v}_{part}.weight" for v in ("text", "code") for part in ("embedding", "head")}
    return {name: one for name, one in model.state_dict().items() if name not in exported}


def is_plain(model: StoreModel) -> bool:
    """Whether the exported LLM is all of the model: it reads and writes codes, step by step."""
    return model.is_plain


def huggingface_state(model: StoreModel) -> dict[str, Tensor]:
    """Names the model's weights as Hugging Face does; fused projections are split."""
    ours = model.state_dict()
    has_codes = len(model.codebook_sizes) > 0
    vocabularies = ("text", "code") if has_codes else ("text",)
    theirs = {
        "model.embed_tokens.weight": torch.cat(
            [ours[f"{v}_embedding.weight"] for v in vocabularies]
        ),
        "lm_head.weight": torch.cat([ours[f"{v}_head.weight"] for v in vocabularies]),
    }
    for name, parts in transformer_layout(model.config):
        rows = [shape[0] for shape in parts.values()]
        theirs |= zip(parts, ours[name].split(rows), strict=True)
    return theirs


def _family(config: ModelConfig) -> dict[str, Any]:
    bias = config.attention_bias
    if config.qk_norm:
        if bias == "qkv":
            raise InputError("no family of transformers has qk_norm and attention_bias = 'qkv'")
        return {"model_type": "qwen3", "attention_bias": bias == "all"}
    if bias == "qkv":
        return {"model_type": "qwen2"}
    return {"model_type": "llama", "attention_bias": bias == "all"}


def _rope(config: ModelConfig) -> dict[str, Any]:
    if config.rope_scaling == "none":
        return {"rope_theta": config.rope_theta}
    scaling = {
        "rope_type": "llama3",
        "factor": config.rope_factor,
        "low_freq_factor": config.rope_low_frequency,
        "high_freq_factor": config.rope_high_frequency,
        "original_max_position_embeddings": config.rope_original_tokens,
    }
    return {"rope_theta": config.rope_theta, "rope_scaling": scaling}
