"""Trie-constrained beam search: prefill once per history, then one small forward pass per level.

The codes of the best items are found level by level. A level's beams are a block of queries over
[context | beam tree] in the cache; the model's head computes that level's codes alone. A history's
tokens stand at positions 0, 1, ...; the code of level l stands l + 1 after the last of them.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from store_engine.catalog.item_filter import ItemFilter
from store_engine.catalog.trie_arrays import SearchTrie
from store_engine.decoding.beam_step import (
    Backend,
    Beams,
    Normalize,
    beam_step,
    choose_backend,
    only_leaves,
    root_beams,
)
from store_engine.inference.contexts import Contexts
from store_engine.inference.kv_cache import KVCache
from store_engine.model.attention import PackedSequences
from store_engine.model.store_model import StoreModel


def prefill(model: StoreModel, cache: KVCache, contexts: Contexts) -> Tensor:
    """Runs every history through the model once and fills the cache's context slots.

    Args:
        model: In eval mode.
        cache: Started for these contexts. What its `prefixes` hold is not computed again.
        contexts: The histories.

    Returns:
        (batch, hidden_size), the state at each history's last token.
    """
    lengths, device = contexts.lengths, contexts.tokens.device
    num_known = torch.zeros_like(lengths)
    keys: list[list[bytes]] = []
    if cache.prefixes:
        num_known, keys = cache.prefixes.restore(contexts, cache.layers)
    num_new = lengths - num_known
    sequences = PackedSequences(F.pad(num_new.cumsum(0), (1, 0)), device)
    tokens, positions = contexts.tokens, sequences.positions
    if bool(num_known.any()):
        positions = positions + num_known.repeat_interleave(num_new).to(device)
        first = (lengths.cumsum(0) - lengths).repeat_interleave(num_new).to(device)
        tokens = tokens[first + positions]
    embeddings = model.embed(tokens)
    attend = cache.prefill(sequences, num_known)
    last = (num_new.cumsum(0) - 1).to(device)
    hidden: Tensor = model.transformer(embeddings, positions, attend, wanted=last)
    if cache.prefixes:
        cache.prefixes.store(keys, cache.layers)
    return hidden


def beam_search(
    model: StoreModel,
    trie: SearchTrie,
    cache: KVCache,
    contexts: Contexts,
    beam_width: int,
    *,
    normalize: Normalize = "codebook",
    backend: Backend = "auto",
    item_filter: ItemFilter | None = None,
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
        item_filter: Which items each request may be given; a prefix that leads to none of them
            takes no beam's place.

    Returns:
        The leaves, best first: `nodes` are the trie's leaves, `scores` sums of log-probabilities.
    """
    widths = [min(beam_width, size) for size in trie.level_sizes[1:]]
    cache.start(contexts.lengths, num_tree_slots=sum(widths[:-1]))
    logits = model.level_logits(prefill(model, cache, contexts), 0)[:, None]
    beams = root_beams(len(contexts.lengths), logits.device)
    backend = choose_backend(backend, logits.device)
    tree = _BeamTree(model, cache, contexts.lengths.to(logits.device), backend == "triton")
    for level, width in enumerate(widths):
        beams = beam_step(
            trie,
            level,
            logits,
            beams,
            width,
            normalize=normalize,
            backend=backend,
            item_filter=item_filter,
        )
        if level + 1 == trie.num_levels:
            break
        is_open = None
        if normalize == "children":
            leaves, tokens = only_leaves(
                trie, level + 1, beams.nodes, backend=backend, item_filter=item_filter
            )
            is_open = (beams.nodes >= 0) & (leaves < 0)
            if not bool(is_open.any()):
                return _leaves_below(beams, leaves, tokens)
        logits = tree.logits(level + 1, beams, is_open)
    return beams


class _BeamTree:
    """Runs the beams of one level after the other through the model.

    Args:
        model: In eval mode.
        cache: Filled by prefill.
        lengths: (batch,) int64, tokens of each context.
        use_triton: Which attention runs.
    """

    def __init__(
        self, model: StoreModel, cache: KVCache, lengths: Tensor, use_triton: bool
    ) -> None:
        self._model, self._cache, self._lengths = model, cache, lengths
        self._use_triton = use_triton
        # (batch, width) int64, where in the last block each beam stands; None: in their order
        self._place: Tensor | None = None
        # (batch, num_run, depth) int64, the tree's slots that the last block's beams see
        self._ancestors: Tensor | None = None
        self._num_slots = 0

    def logits(self, level: int, beams: Beams, is_open: Tensor | None) -> Tensor:
        """Computes what may follow each beam.

        Args:
            level: Of the codes that follow, at least 1.
            beams: Those of the level before.
            is_open: (batch, width) bool, the beams to run; None runs them all. One that is not run
                must have no descendant that is.

        Returns:
            (batch, width, codebook_size), zeros for a beam that was not run.
        """
        model, (batch, width) = self._model, beams.nodes.shape
        codes, parents = beams.tokens.clamp(min=0), beams.parents.clamp(min=0)
        num_run = width if is_open is None else int(is_open.sum(1).max())
        slots = None
        if is_open is not None and num_run < width:  # the open ones, as many as the fullest has
            slots = is_open.long().argsort(dim=1, descending=True, stable=True)[:, :num_run]
            codes, parents = codes.gather(1, slots), parents.gather(1, slots)
        attend = self._cache.decode(
            self._grow(parents), begin=self._num_slots - num_run, use_triton=self._use_triton
        )
        embeddings = model.code_embedding(
            codes.flatten() + model.vocabulary.code_offsets[level - 1]
        )
        positions = (self._lengths + level - 1).repeat_interleave(num_run)
        hidden = model.transformer(embeddings, positions, attend)
        logits = model.level_logits(hidden, level).view(batch, num_run, -1)
        self._place = None
        if slots is None:
            return logits
        index = torch.arange(num_run, device=slots.device).expand_as(slots)
        self._place = torch.zeros_like(beams.nodes).scatter_(1, slots, index)
        room = logits.new_zeros(batch, width, logits.shape[2])
        return room.scatter_(1, slots[:, :, None].expand_as(logits), logits)

    def _grow(self, parents: Tensor) -> Tensor:
        """Appends a block of beams; each sees what its parent sees, and itself.

        Args:
            parents: (batch, num_run) int64, beams of the level before.

        Returns:
            (batch, num_run, depth) int64, see `KVCache.decode`.
        """
        (batch, num_run), first = parents.shape, self._num_slots
        if self._place is not None:
            parents = self._place.gather(1, parents)
        self._num_slots += num_run
        itself = torch.arange(first, self._num_slots, device=parents.device)
        itself = itself.expand(batch, -1)[:, :, None]
        if self._ancestors is None:  # the root's children
            self._ancestors = itself
        else:
            seen = parents[:, :, None].expand(-1, -1, self._ancestors.shape[2])
            self._ancestors = torch.cat([self._ancestors.gather(1, seen), itself], dim=2)
        return self._ancestors


def _leaves_below(beams: Beams, leaves: Tensor, tokens: Tensor) -> Beams:
    """The leaves, where every beam has but one below it: an only child has log-probability 0.

    Args:
        beams: Those of any level.
        leaves: (batch, width) int64, the leaf below each beam; -1 where there is no beam.
        tokens: (batch, width) int64, the last code of each leaf's SID; -1 likewise.
    """
    slots = torch.arange(leaves.shape[1], device=leaves.device).expand_as(leaves)
    return Beams(beams.scores, slots.masked_fill(leaves < 0, -1), tokens, leaves, beams.num_valid)
