"""The forward passes that a search cannot do without, alone: what bounds it from below."""

from collections.abc import Callable

import numpy as np
import torch

from benchmarks.decoding.engines import BOS
from store_engine.catalog.item_slots import ItemSlots
from store_engine.decoding.engine import Engine
from store_engine.evaluation.plain_beam import history_tokens
from store_engine.inference.cache_attention import TreeAttention
from store_engine.inference.decoding_model import DecodingModel, prepare_for_decoding
from store_engine.inference.kv_cache import KVCache
from store_engine.inference.prefill import prefill
from store_engine.inference.prefill_batch import PrefillBatch


def make_lower_bound(engine: Engine, histories: list[list[int]], beam: int) -> Callable[[], object]:
    """The forward passes that a search by levels cannot do without, everything else prepared."""
    model, trie, batch = prepare_for_decoding(engine.model), engine.trie, len(histories)
    rows = [np.array(history) for history in histories]
    contexts = PrefillBatch.from_histories(rows, history_tokens(engine), BOS)
    if model.has_heads:
        return make_heads_bound(model, engine, contexts, beam)
    widths = [min(beam, size) for size in trie.level_sizes[1:-1]]
    cache = KVCache(model.config, engine.device, model.dtype)
    cache.start(contexts.lengths, sum(widths))
    lengths, num_seen = cache.device_lengths, 0
    blocks = []
    for level, width in enumerate(widths):
        num_seen += width
        codes = torch.zeros(batch * width, dtype=torch.int64, device=engine.device)
        positions = (lengths + level).repeat_interleave(width)
        itself = torch.arange(num_seen - width, num_seen, device=engine.device)
        ancestors = itself[:, None].expand(-1, level + 1)
        ancestors = ancestors.expand(batch, -1, -1)
        attend = TreeAttention(cache, ancestors, begin=num_seen - width)
        blocks.append((codes, positions, attend))

    @torch.inference_mode()
    def run() -> None:
        model.level_logits(prefill(model, cache, contexts), 0)
        for level, (codes, positions, attend) in enumerate(blocks, 1):
            hidden = model.transformer(model.embed_codes(codes, level - 1), positions, attend)
            model.level_logits(hidden, level)

    return run


def make_heads_bound(
    model: DecodingModel, engine: Engine, contexts: PrefillBatch, beam: int
) -> Callable[[], object]:
    """The same, where every level is read from the last state: prefill and the heads."""
    trie, sids = engine.trie, engine.sids
    assert engine.model.items is not None
    if engine.model.items.have_rows or engine.model.items.are_read:
        model = model.with_slots(ItemSlots.of(engine.model, sids, trie.codebook_sizes[-1])[0])
    prefixes = torch.from_numpy(sids[:beam, 0]).long().to(engine.device)
    prefixes = prefixes.expand(len(contexts.lengths), -1)
    cache = KVCache(model.config, engine.device, model.dtype)
    cache.start(contexts.lengths, 0)

    @torch.inference_mode()
    def run() -> None:
        state = prefill(model, cache, contexts)
        for level in range(trie.num_levels):
            model.logits(model.head_states(state, level)[:, None], level, prefixes)

    return run
