"""Exact mode: the log-probability of every item of the catalogue after each history.

Walks the trie depth first, a chunk of sibling prefixes at a time, so a prefix that many items share
is run through the model once and memory is bounded by the chunk, whatever the catalogue. It is the
truth that beam search is tested against, and the evaluation without a beam's error.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from store_engine.catalog.item_filter import ItemFilter
from store_engine.catalog.trie_arrays import TrieArrays
from store_engine.decoding.beam import prefill
from store_engine.decoding.beam_step import Normalize, segment_logsumexp
from store_engine.inference.contexts import Contexts
from store_engine.inference.kv_cache import KVCache
from store_engine.model.store_model import StoreModel


def score_catalog(
    model: StoreModel,
    trie: TrieArrays,
    cache: KVCache,
    contexts: Contexts,
    *,
    normalize: Normalize = "codebook",
    item_filter: ItemFilter | None = None,
    chunk_tokens: int = 4096,
) -> Tensor:
    """Scores all items.

    Args:
        model: In eval mode.
        trie: The catalogue.
        cache: Overwritten.
        contexts: The histories.
        normalize: Over which codes a softmax runs; see `beam_step`.
        item_filter: Which items each request may be given; a SID with none of them scores -inf.
        chunk_tokens: Prefixes per forward pass, over the whole batch.

    Returns:
        (batch, num_items) float32 log-probabilities by catalogue row. Items that share a SID have
        the same.

    Raises:
        ValueError: Logits are NaN.
    """
    batch = len(contexts.lengths)
    chunk = max(1, chunk_tokens // batch)
    cache.start(contexts.lengths, num_tree_slots=chunk * (trie.num_levels - 1))
    logits = model.level_logits(prefill(model, cache, contexts), 0)[:, None]
    leaf_scores = logits.new_empty(batch, trie.level_sizes[-1], dtype=torch.float32)
    lengths = contexts.lengths.to(logits.device)
    walk = _Walk(model, trie, cache, lengths, normalize, item_filter, chunk, leaf_scores)
    root = torch.zeros(1, dtype=torch.int64, device=logits.device)
    no_slots = root.new_zeros(1, 0)
    walk.descend(0, root, logits.float(), logits.new_zeros(batch, 1).float(), no_slots)
    leaf = torch.searchsorted(trie.item_begin[-1], trie.ranks, right=True) - 1
    return leaf_scores[:, leaf]


@dataclass
class _Walk:
    """What a depth-first walk carries along."""

    model: StoreModel
    trie: TrieArrays
    cache: KVCache
    lengths: Tensor  # (batch,)
    normalize: Normalize
    item_filter: ItemFilter | None
    chunk: int
    leaf_scores: Tensor  # (batch, num_leaves), filled on the way

    def descend(
        self, level: int, nodes: Tensor, logits: Tensor, scores: Tensor, ancestors: Tensor
    ) -> None:
        """Scores everything below a chunk of nodes of depth `level`.

        Args:
            level: Of the codes that continue the nodes.
            nodes: (num_nodes,) int64.
            logits: (batch, num_nodes, codebook_size) float32 of that level.
            scores: (batch, num_nodes) float32.
            ancestors: (num_nodes, level) int64, the tree's slots of each node's prefix.
        """
        if bool(logits.isnan().any()):
            raise ValueError(f"level {level}: logits NaN")
        parent, child = self.trie.children(level, nodes)
        code = self.trie.token[level][child]
        chosen = logits[:, parent, code]  # (batch, num_children)
        if self.item_filter is not None:
            request = torch.arange(len(chosen), device=child.device)[:, None]
            is_alive = self.item_filter.is_alive(level + 1, request, child)
            chosen = chosen.masked_fill(~is_alive, -torch.inf)
        if self.normalize == "codebook":
            log_sum = logits.logsumexp(-1)
        else:
            log_sum = torch.stack([segment_logsumexp(x, parent, len(nodes)) for x in chosen])
            log_sum = log_sum.clamp(min=torch.finfo(log_sum.dtype).min)  # -inf: no child is left
        scores = scores[:, parent] + (chosen - log_sum[:, parent])
        if level + 1 == self.trie.num_levels:
            self.leaf_scores[:, child] = scores
            return
        for begin in range(0, len(child), self.chunk):
            part = slice(begin, begin + self.chunk)
            itself = torch.arange(len(child[part]), device=child.device) + level * self.chunk
            seen = torch.cat([ancestors[parent[part]], itself[:, None]], dim=1)
            logits = self._forward(level, code[part], seen)
            self.descend(level + 1, child[part], logits, scores[:, part], seen)

    def _forward(self, level: int, codes: Tensor, seen: Tensor) -> Tensor:
        """Runs the codes of one level after their prefixes -> the next level's float32 logits."""
        model, batch, width = self.model, len(self.lengths), len(codes)
        attend = self.cache.decode(seen.expand(batch, -1, -1), begin=level * self.chunk)
        embeddings = model.code_embedding(
            (codes + model.vocabulary.code_offsets[level]).repeat(batch)
        )
        positions = (self.lengths + level).repeat_interleave(width)
        hidden = model.transformer(embeddings, positions, attend)
        return model.level_logits(hidden, level + 1).view(batch, width, -1).float()
