"""Trie-constrained beam search: prefill once per history, then one small forward pass per level.

The codes of the best items are found level by level. A level's beams are a block of queries over
[context | beam tree] in the cache; the model's head computes that level's codes alone. A history's
tokens stand at positions 0, 1, ...; the code of level l stands l + 1 after the last of them.
"""

import torch
from torch import Tensor

from store_engine.decoding.beam_step import Backend, Beams, Normalize, beam_step, root_beams
from store_engine.decoding.contexts import Contexts
from store_engine.decoding.exclusion import Exclusion
from store_engine.decoding.kv_cache import KVCache
from store_engine.decoding.trie_arrays import TrieArrays
from store_engine.model.attention import PackedSequences
from store_engine.model.store_model import StoreModel


def prefill(model: StoreModel, cache: KVCache, contexts: Contexts) -> Tensor:
    """Runs every history through the model once and fills the cache's context slots.

    Args:
        model: In eval mode.
        cache: Started for these contexts.
        contexts: The histories.

    Returns:
        (batch, hidden_size), the state at each history's last token.
    """
    ends = contexts.lengths.cumsum(0)
    cu_seqlens = torch.cat([ends.new_zeros(1), ends])
    sequences = PackedSequences(cu_seqlens, contexts.tokens.device)
    embeddings = model.embed(contexts.tokens)
    hidden = model.transformer(embeddings, sequences.positions, cache.prefill(sequences))
    return hidden[(ends - 1).to(hidden.device)]


def beam_search(
    model: StoreModel,
    trie: TrieArrays,
    cache: KVCache,
    contexts: Contexts,
    beam_width: int,
    *,
    normalize: Normalize = "vocab",
    backend: Backend = "auto",
    exclusion: Exclusion | None = None,
) -> Beams:
    """Finds the most likely SIDs of the catalogue after each history.

    Args:
        model: In eval mode.
        trie: The catalogue.
        cache: Overwritten.
        contexts: The histories.
        beam_width: Prefixes kept at each level. A level with fewer nodes keeps them all.
        normalize: Over which codes a softmax runs; see `beam_step`.
        backend: Which implementation of `beam_step`.
        exclusion: Items of each request that may not be found; a prefix that leads to no other
            item takes no beam's place.

    Returns:
        The leaves, best first: `nodes` are the trie's leaves, `scores` sums of log-probabilities.
    """
    batch, device = len(contexts.lengths), contexts.tokens.device
    widths = [min(beam_width, size) for size in trie.level_sizes[1:]]
    cache.start(contexts.lengths, num_tree_slots=sum(widths[:-1]))
    lengths = contexts.lengths.to(device)
    logits = model.level_logits(prefill(model, cache, contexts), 0)[:, None]
    beams = root_beams(batch, device)
    visible = cache.context_mask[:, None]  # (batch, width, slots): the root sees the context
    for level, width in enumerate(widths):
        num_spare = exclusion.num_dead(level) if exclusion else 0
        beams = beam_step(
            trie, level, logits, beams, width + num_spare, normalize=normalize, backend=backend
        )
        if exclusion:
            beams = exclusion.prune(level, beams, width)
        if level + 1 == trie.num_levels:
            break
        visible = _extend(visible, beams.parents)
        tokens = beams.tokens.clamp(min=0) + model.code_offsets[level] + model.text_vocab_size
        positions = (lengths + level).repeat_interleave(width)
        attend = cache.decode(visible, begin=visible.shape[2] - width)
        hidden = model.transformer(model.embed(tokens.flatten()), positions, attend)
        logits = model.level_logits(hidden, level + 1).view(batch, width, -1)
    return beams


def _extend(visible: Tensor, parents: Tensor) -> Tensor:
    """Each beam sees what its parent sees, and itself: (batch, width, slots + width) bool."""
    batch, width = parents.shape
    index = parents.clamp(min=0)[:, :, None].expand(-1, -1, visible.shape[2])
    itself = torch.eye(width, dtype=torch.bool, device=visible.device).expand(batch, -1, -1)
    return torch.cat([visible.gather(1, index), itself], dim=2)
