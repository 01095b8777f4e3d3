"""Export to Hugging Face: our model is a Llama, so this renames tensors and changes no number.

The exported model has the joint vocabulary: text tokens, then the codes of level 0, level 1, ...
Its head gives logits for all of them; a softmax over one level's slice is what our engine computes.
"""

from pathlib import Path

import torch
from torch import Tensor
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from store_engine.model.store_model import StoreModel


def export_llama(
    model: StoreModel, path: str | Path | None = None, *, bos: int = 1, max_tokens: int = 4096
) -> LlamaForCausalLM:
    """Makes a `LlamaForCausalLM` with the model's weights.

    Args:
        model: The recommender, or a stage-1 model without codes.
        path: Folder to save it in, for `from_pretrained`; None saves nothing.
        bos: Id of the text token that sequences begin with.
        max_tokens: Longest sequence that the exported config allows.

    Returns:
        The exported model in eval mode, with a copy of the weights.

    Raises:
        ValueError: hidden_size is not a multiple of num_heads, which transformers requires.
    """
    config = model.config
    if config.hidden_size % config.num_heads:
        raise ValueError(
            f"transformers requires hidden_size to be a multiple of num_heads, "
            f"got {config.hidden_size} and {config.num_heads}"
        )
    llama = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=model.text_vocab_size + sum(model.codebook_sizes),
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            num_key_value_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            rms_norm_eps=config.norm_eps,
            rope_theta=config.rope_theta,
            max_position_embeddings=max_tokens,
            tie_word_embeddings=False,
            bos_token_id=bos,
            eos_token_id=None,  # a SID has a fixed length
        )
    )
    # what a folder's generation_config says would silently join a user's beam search
    llama.generation_config = GenerationConfig(bos_token_id=bos, do_sample=False)
    llama.to(model.transformer.norm.weight.dtype)
    llama.load_state_dict(llama_state(model), strict=True)
    llama.eval()
    if path is not None:
        llama.save_pretrained(path)
    return llama


def llama_state(model: StoreModel) -> dict[str, Tensor]:
    """The model's weights under the names of Hugging Face's Llama; fused projections are split."""
    config, ours = model.config, model.state_dict()
    has_codes = len(model.codebook_sizes) > 0
    vocabularies = ("text", "code") if has_codes else ("text",)
    theirs = {
        "model.embed_tokens.weight": torch.cat(
            [ours[f"{v}_embedding.weight"] for v in vocabularies]
        ),
        "lm_head.weight": torch.cat([ours[f"{v}_head.weight"] for v in vocabularies]),
        "model.norm.weight": ours["transformer.norm.weight"],
    }
    heads = [config.num_heads, config.num_kv_heads, config.num_kv_heads]
    rows = [count * config.head_dim for count in heads]
    for i in range(config.num_layers):
        block = f"transformer.blocks.{i}"
        q, k, v = ours[f"{block}.attention.qkv_proj.weight"].split(rows)
        gate, up = ours[f"{block}.mlp.gate_up_proj.weight"].chunk(2)
        layer = {
            "self_attn.q_proj": q,
            "self_attn.k_proj": k,
            "self_attn.v_proj": v,
            "self_attn.o_proj": ours[f"{block}.attention.o_proj.weight"],
            "mlp.gate_proj": gate,
            "mlp.up_proj": up,
            "mlp.down_proj": ours[f"{block}.mlp.down_proj.weight"],
            "input_layernorm": ours[f"{block}.attention_norm.weight"],
            "post_attention_layernorm": ours[f"{block}.mlp_norm.weight"],
        }
        theirs |= {f"model.layers.{i}.{name}.weight": tensor for name, tensor in layer.items()}
    return theirs
