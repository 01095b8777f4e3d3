"""What a search takes at least on a GPU: its roofline, pass by pass."""

from typing import NamedTuple

from benchmarks.measuring.data_sheet import DataSheet
from store_engine.decoding.engine import Engine


class Load(NamedTuple):
    """What is asked for."""

    batch: int
    beam_width: int
    num_tokens: float  # of a history, on the average


def search_bound_ms(engine: Engine, load: Load, sheet: DataSheet) -> float:
    """Sums what every pass takes at least.

    A pass reads the layers' weights, a level's head and the contexts' keys and values once; its
    products are those of its tokens, of the head those that are read. Heads for all levels need one
    pass, which reads them all.
    """
    model, config = engine.model, engine.model.config
    weight, sizes = model.code_head.weight, engine.trie.codebook_sizes
    heads, kv_heads = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    layer = config.hidden_size * (2 * heads + 2 * kv_heads + 3 * config.intermediate_size)
    cached = 2 * kv_heads * load.batch * load.num_tokens
    total = 0.0
    for level, width in enumerate(engine.trie.level_sizes[:-1]):
        is_prefill = level == 0
        if model.level_heads is not None and not is_prefill:
            break
        rows = load.batch * min(load.beam_width, width)
        tokens = load.batch * load.num_tokens if is_prefill else rows
        seen = load.num_tokens / 2 if is_prefill else load.num_tokens
        head = config.hidden_size * (sum(sizes) if model.level_heads is not None else sizes[level])
        num_bytes = (config.num_layers * (layer + cached) + head) * weight.element_size()
        flops = config.num_layers * tokens * (2 * layer + 4 * seen * heads) + 2 * rows * head
        total += sheet.milliseconds(num_bytes, flops, weight.dtype)
    return total
