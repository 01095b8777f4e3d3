"""Our transformer's tensors and Hugging Face's: one table, read in both directions.

We keep q, k and v in one matrix and gate and up in another, theirs lie one below the other in ours;
besides that only names differ, for Llama, Qwen2 and Qwen3 alike.
"""

from collections.abc import Iterator

from store_engine.config import ModelConfig

Shape = tuple[int, ...]


def transformer_layout(config: ModelConfig) -> Iterator[tuple[str, dict[str, Shape]]]:
    """Lists our transformer's tensors, each with its parts.

    Yields:
        Our name, and the names and shapes of Hugging Face's tensors that make it, top to bottom.
    """
    hidden, inner, head_dim = config.hidden_size, config.intermediate_size, config.head_dim
    q, kv = config.num_heads * head_dim, config.num_kv_heads * head_dim
    has_qkv_bias, has_o_bias = config.attention_bias != "none", config.attention_bias == "all"
    for i in range(config.num_layers):
        ours, theirs = f"transformer.blocks.{i}", f"model.layers.{i}"
        attention, mlp = f"{theirs}.self_attn", f"{theirs}.mlp"
        rows = {f"{attention}.q_proj": q, f"{attention}.k_proj": kv, f"{attention}.v_proj": kv}
        yield (
            f"{ours}.attention.qkv_proj.weight",
            {f"{name}.weight": (count, hidden) for name, count in rows.items()},
        )
        if has_qkv_bias:
            yield (
                f"{ours}.attention.qkv_proj.bias",
                {f"{name}.bias": (count,) for name, count in rows.items()},
            )
        yield f"{ours}.attention.o_proj.weight", {f"{attention}.o_proj.weight": (hidden, q)}
        if has_o_bias:
            yield f"{ours}.attention.o_proj.bias", {f"{attention}.o_proj.bias": (hidden,)}
        if config.qk_norm:
            for norm in ("q_norm.weight", "k_norm.weight"):
                yield f"{ours}.attention.{norm}", {f"{attention}.{norm}": (head_dim,)}
        gate_up: dict[str, Shape] = {
            f"{mlp}.{name}.weight": (inner, hidden) for name in ("gate_proj", "up_proj")
        }
        yield f"{ours}.mlp.gate_up_proj.weight", gate_up
        yield f"{ours}.mlp.down_proj.weight", {f"{mlp}.down_proj.weight": (hidden, inner)}
        yield f"{ours}.attention_norm.weight", {f"{theirs}.input_layernorm.weight": (hidden,)}
        yield f"{ours}.mlp_norm.weight", {f"{theirs}.post_attention_layernorm.weight": (hidden,)}
    yield "transformer.norm.weight", {"model.norm.weight": (hidden,)}
