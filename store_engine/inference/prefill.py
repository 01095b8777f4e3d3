"""The first pass of every search: histories through the model, into the KV cache."""

import torch
from torch import Tensor

from store_engine.inference.cache_attention import PrefillAttention
from store_engine.inference.decoding_model import DecodingModel
from store_engine.inference.kv_cache import KVCache
from store_engine.inference.prefill_batch import PrefillBatch
from store_engine.model.attention import PackedSequences


def prefill(model: DecodingModel, cache: KVCache, batch: PrefillBatch) -> Tensor:
    """Runs every history through the model once and fills the cache's context slots.

    Args:
        model: The model.
        cache: Started for these histories. What its `prefixes` hold is not computed again.
        batch: The histories.

    Returns:
        (batch, hidden_size), the state at each history's last token.
    """
    lengths, device = batch.lengths, batch.tokens.device
    num_known = torch.zeros_like(lengths)
    hashes: list[list[bytes]] = []
    if cache.prefixes:
        num_known, hashes = cache.prefixes.match_prefix(batch, cache.layers)
    num_new = lengths - num_known
    sequences = PackedSequences.from_lengths(num_new, device)
    tokens, positions = batch.tokens, sequences.positions
    if bool(num_known.any()):
        positions = positions + num_known.repeat_interleave(num_new).to(device)
        first = (lengths.cumsum(0) - lengths).repeat_interleave(num_new).to(device)
        tokens = tokens[first + positions]
    attend = PrefillAttention(cache, sequences, num_known)
    last = (num_new.cumsum(0) - 1).to(device)
    hidden = model.transformer(model.embed(tokens), positions, attend, output_indices=last)
    if cache.prefixes:
        cache.prefixes.insert(hashes, cache.layers)
    return hidden
