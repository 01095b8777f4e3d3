"""Trie-constrained beam search: prefill once per history, then one small forward pass per level.

The codes of the best items are found level by level. A level's beams are a block of queries over
[context | beam tree] in the cache; the model's head computes that level's codes alone. A history's
tokens stand at positions 0, 1, ...; the code of level l stands l + 1 after the last of them.
A model with a head per level on a history's last state needs no pass per level.
"""

import torch
from torch import Tensor

from store_engine.decoding.backends import Backend, SearchSpace, check_beams
from store_engine.decoding.forced_paths import ForcedPaths, Prefixes
from store_engine.decoding.writers import Writer
from store_engine.inference.decoding_model import DecodingModel
from store_engine.inference.kv_cache import KVCache
from store_engine.inference.prefill import prefill
from store_engine.inference.prefill_batch import PrefillBatch
from store_engine.kernels.trie_topk import Beams, root_beams


def beam_search(
    model: DecodingModel,
    space: SearchSpace,
    cache: KVCache,
    batch: PrefillBatch,
    beam_width: int,
    backend: Backend,
) -> Beams:
    """Finds the most likely SIDs of the catalogue after each history.

    Args:
        model: The model.
        space: What may be found. A prefix that leads to no item that a request may be given takes
            no beam's place.
        cache: Overwritten.
        batch: The histories.
        beam_width: Prefixes kept at each level. A level with fewer nodes keeps them all.
        backend: The implementation of the steps.

    Returns:
        The leaves, best first: `nodes` are the trie's leaves, `scores` sums of log-probabilities.

    Raises:
        NonFiniteLogitsError: The model gave NaN or +inf for some of the requests.
    """
    writer = begin_search(model, space, cache, batch, beam_width)
    return search_beams(writer, space, cache, beam_width, backend)


def begin_search(
    model: DecodingModel,
    space: SearchSpace,
    cache: KVCache,
    batch: PrefillBatch,
    beam_width: int,
    num_forced: int = 0,
) -> Writer:
    """Runs the histories through the model, into a cache with room for the beams to come.

    Args:
        model: The model.
        space: What may be found.
        cache: Overwritten.
        batch: The histories.
        beam_width: As for `beam_search`.
        num_forced: Items per request that are walked beside the beams.
    """
    sizes = space.trie.level_sizes[1:-1]
    widths = [min(beam_width, size) + min(num_forced, size) for size in sizes]
    slots = 0 if model.has_heads else sum(widths)
    cache.start(batch.lengths, num_tree_slots=slots)
    return Writer(model, cache, prefill(model, cache, batch))


def search_beams(
    writer: Writer,
    space: SearchSpace,
    cache: KVCache,
    beam_width: int,
    backend: Backend,
    forced: ForcedPaths | None = None,
) -> Beams:
    """Searches after `begin_search`, as `beam_search` does, and scores given items on the way.

    Args:
        writer: What `begin_search` returned.
        space: What it was given; with `forced`, its softmax runs over the codebook.
        cache: The same.
        beam_width: The same.
        backend: The implementation of the steps.
        forced: The items to score; does not change what is found.
    """
    trie = space.trie
    widths = [min(beam_width, size) for size in trie.level_sizes[1:]]
    logits = writer.first_logits
    beams = root_beams(len(logits), logits.device)
    tree = _BeamTree(writer, cache, backend)
    for level, width in enumerate(widths):
        if forced is not None:
            forced.score(level, logits)
        beams = backend.beam_step(space, level, logits[:, : beams.nodes.shape[1]], beams, width)
        if level + 1 == trie.num_levels:
            break
        block = Prefixes(beams.tokens.clamp(min=0), beams.parents.clamp(min=0))
        if forced is not None:
            pairs = zip(block, forced.beside(level, beams), strict=True)
            block = Prefixes(*(torch.cat(pair, 1) for pair in pairs))
        needs_forward = None
        if space.normalize == "children":
            leaves, tokens = backend.unique_leaves(space, level + 1, beams.nodes)
            needs_forward = (beams.nodes >= 0) & (leaves < 0)
            if not bool(needs_forward.any()):
                beams = _leaves_below(beams, leaves, tokens)
                break
        logits = tree.logits(level + 1, block, needs_forward)
    check_beams(beams)
    return beams


class _BeamTree:
    """Runs the beams of one level after the other through the model.

    Args:
        writer: The model after prefill.
        cache: Filled by prefill.
        backend: Gives the attention.
    """

    def __init__(self, writer: Writer, cache: KVCache, backend: Backend) -> None:
        self._writer, self._cache, self._backend = writer, cache, backend
        # (batch, width) int64, the prefixes of the last block; None: the empty one
        self._prefixes: Tensor | None = None
        # (batch, width) int64, each beam's index in the last block; None: they stand in order
        self._block_index: Tensor | None = None
        # (batch, num_run, depth) int64, the tree's slots that the last block's beams see
        self._ancestors: Tensor | None = None
        self._num_slots = 0

    def logits(self, level: int, block: Prefixes, needs_forward: Tensor | None) -> Tensor:
        """Computes what may follow each prefix.

        Args:
            level: Level of the codes that follow, at least 1.
            block: (batch, width) prefixes: the beams of the level before, and what is beside them.
            needs_forward: (batch, width) bool, the prefixes to run; None runs them all. One that is
                not run must have no descendant that is.

        Returns:
            (batch, width, codebook_size), zeros for a prefix that was not run.
        """
        writer, (batch, width) = self._writer, block.codes.shape
        prefixes = self._append(block, level - 1)
        if writer.model.has_heads:
            return writer.head_logits(level, prefixes)
        codes, parents = block.codes.clamp(min=0), block.parents
        num_run = width if needs_forward is None else int(needs_forward.sum(1).max())
        slots = None
        if needs_forward is not None and num_run < width:  # as many as the fullest request has
            order = needs_forward.long().argsort(dim=1, descending=True, stable=True)
            slots = order[:, :num_run]
            codes, parents, prefixes = (x.gather(1, slots) for x in (codes, parents, prefixes))
        ancestors = self._grow(parents)
        attend = self._backend.tree_attention(
            self._cache, ancestors, begin=self._num_slots - num_run
        )
        states = writer.by_step(level, codes, attend)
        logits = writer.model.logits(states, level, prefixes)
        self._block_index = None
        if slots is None:
            return logits
        index = torch.arange(num_run, device=slots.device).expand_as(slots)
        self._block_index = torch.zeros_like(block.codes).scatter_(1, slots, index)
        buffer = logits.new_zeros(batch, width, logits.shape[2])
        return buffer.scatter_(1, slots[:, :, None].expand_as(logits), logits)

    def _append(self, block: Prefixes, level: int) -> Tensor:
        """Appends the block's codes to their parents' prefixes, as numbers; -1 for none."""
        (codes, parents), before, model = block, self._prefixes, self._writer.model
        if not model.reads_prefixes:
            return codes
        before = torch.zeros_like(codes) if before is None else before.gather(1, parents)
        self._prefixes = model.next_prefixes(before, codes, level).masked_fill(codes < 0, -1)
        return self._prefixes

    def _grow(self, parents: Tensor) -> Tensor:
        """Appends a block of beams; each sees what its parent sees, and itself.

        Args:
            parents: (batch, num_run) int64, beams of the level before.

        Returns:
            (batch, num_run, depth) int64, see `TreeAttention`.
        """
        (batch, num_run), first = parents.shape, self._num_slots
        if self._block_index is not None:
            parents = self._block_index.gather(1, parents)
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
    """Goes to the leaves, where every beam has but one below it: its log-probability is 0.

    Args:
        beams: The beams of any level.
        leaves: (batch, width) int64, the leaf below each beam; -1 where there is no beam.
        tokens: (batch, width) int64, the last code of each leaf's SID; -1 likewise.
    """
    slots = torch.arange(leaves.shape[1], device=leaves.device).expand_as(leaves)
    parents = slots.masked_fill(leaves < 0, -1)
    return beams._replace(parents=parents, tokens=tokens, nodes=leaves)
