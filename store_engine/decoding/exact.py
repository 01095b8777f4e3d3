"""Exact mode: the log-probability of every item of the catalogue after each history.

Walks the trie depth first, a chunk of sibling prefixes at a time, so a prefix that many items share
is run through the model once and memory is bounded by the chunk, whatever the catalogue. It is the
truth that beam search is tested against, and the evaluation without a beam's error.
Where codes are independent, `rank_catalog` ranks all items in one scan of the C++ core.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from store_engine._C import rank_items
from store_engine.decoding.backends import NonFiniteLogitsError, SearchSpace
from store_engine.decoding.ranking import Ranking
from store_engine.decoding.writers import Writer
from store_engine.inference.cache_attention import TreeAttention
from store_engine.inference.decoding_model import DecodingModel
from store_engine.inference.kv_cache import KVCache
from store_engine.inference.prefill import prefill
from store_engine.inference.prefill_batch import PrefillBatch
from store_engine.kernels.ragged import segment_logsumexp
from store_engine.kernels.trie_topk import Normalize

_CHUNK_TOKENS = 4096  # prefixes per forward pass, over the whole batch


def score_catalog(
    model: DecodingModel, space: SearchSpace, cache: KVCache, batch: PrefillBatch
) -> Tensor:
    """Scores all items.

    Args:
        model: The model.
        space: What may be found; a SID with no item that a request may be given scores -inf.
        cache: Overwritten.
        batch: The histories.

    Returns:
        (batch, num_items) float32 log-probabilities by catalogue row. Items that share a SID have
        the same.

    Raises:
        NonFiniteLogitsError: The model gave NaN or +inf for some of the requests.
    """
    trie, size = space.arrays, len(batch.lengths)
    chunk = max(1, _CHUNK_TOKENS // size)
    cache.start(
        batch.lengths, num_tree_slots=0 if model.has_heads else chunk * (trie.num_levels - 1)
    )
    writer = Writer(model, cache, prefill(model, cache, batch))
    logits = writer.first_logits
    leaf_scores = logits.new_empty(size, trie.level_sizes[-1], dtype=torch.float32)
    walk = _Walk(writer, space, cache, chunk, leaf_scores)
    root = torch.zeros(1, dtype=torch.int64, device=logits.device)
    nothing = _Prefixes(0, root, root.new_zeros(1, 0))
    walk.descend(0, nothing, logits.float(), logits.new_zeros(size, 1).float())
    _check_finite(walk.bad)
    leaf = torch.searchsorted(trie.item_begin[-1], trie.ranks, right=True) - 1
    return leaf_scores[:, leaf]


def has_independent_codes(model: DecodingModel, normalize: Normalize) -> bool:
    """Says whether an item's score is a sum over its codes, each read from one state alone.

    Args:
        model: For the items that are searched.
        normalize: What a softmax runs over.
    """
    return model.has_heads and not model.reads_prefixes and normalize == "codebook"


def rank_catalog(
    model: DecodingModel, space: SearchSpace, cache: KVCache, batch: PrefillBatch, k: int
) -> Ranking:
    """Ranks all items where codes are independent: one forward pass and one scan.

    Args:
        model: With `has_independent_codes`.
        space: What may be found.
        cache: Overwritten.
        batch: The histories.
        k: Items wanted.

    Returns:
        What `rank_scores` makes of `score_catalog`, in the same bits.

    Raises:
        NonFiniteLogitsError: The model gave NaN or +inf for some of the requests.

    Source: RPG, https://arxiv.org/abs/2506.05781.
    """
    cache.start(batch.lengths, num_tree_slots=0)
    writer = Writer(model, cache, prefill(model, cache, batch))
    root = torch.zeros(len(batch.lengths), 1, dtype=torch.int64, device=model.device)
    found, bad = [], []
    for level in range(space.trie.num_levels):
        logits = writer.head_logits(level, root).float()
        bad.append(_is_bad(logits))
        log_sum = logits.logsumexp(2, keepdim=True)
        log_sum = log_sum.masked_fill(log_sum == -torch.inf, torch.inf)
        found.append((logits - log_sum)[:, 0])
    _check_finite(bad)
    logprobs = torch.cat(found, 1).cpu().split([x.shape[1] for x in found], 1)
    return rank_items(
        space.trie.item_trie,
        [x.contiguous().numpy() for x in logprobs],
        k,
        item_filter=space.item_filter.core if space.item_filter else None,
        num_threads=torch.get_num_threads(),
    )


class _Prefixes(NamedTuple):
    """A chunk of prefixes, the same for all requests."""

    begin: int  # the first of their nodes, which follow each other
    numbers: Tensor  # (num_nodes,) int64, the codes of each as one number
    ancestors: Tensor  # (num_nodes, level) int64, the tree's slots of each one's codes


@dataclass
class _Walk:
    """What a depth-first walk carries along."""

    writer: Writer
    space: SearchSpace
    cache: KVCache
    chunk: int
    leaf_scores: Tensor  # (batch, num_leaves), filled on the way
    bad: list[Tensor] = field(init=False)  # of each level (batch,) bool, filled likewise

    def __post_init__(self) -> None:
        """Begins with no bad request."""
        nothing = self.leaf_scores.new_zeros(len(self.leaf_scores), dtype=torch.bool)
        self.bad = [nothing] * self.space.trie.num_levels

    def descend(self, level: int, prefixes: _Prefixes, logits: Tensor, scores: Tensor) -> None:
        """Scores everything below a chunk of nodes of `level`.

        Args:
            level: Level of the codes that continue the nodes.
            prefixes: The nodes.
            logits: (batch, num_nodes, codebook_size) float32 of that level.
            scores: (batch, num_nodes) float32.
        """
        self.bad[level] = self.bad[level] | _is_bad(logits)
        trie, item_filter = self.space.arrays, self.space.item_filter
        num_nodes = len(prefixes.numbers)
        parent, child = trie.children_between(level, prefixes.begin, prefixes.begin + num_nodes)
        code = trie.token[level][child]
        chosen = logits[:, parent, code]  # (batch, num_children)
        if item_filter is not None:
            request = torch.arange(len(chosen), device=parent.device)[:, None]
            nodes = torch.arange(child.start, child.stop, device=parent.device)
            is_alive = item_filter.is_alive(level + 1, request, nodes)
            chosen = chosen.masked_fill(~is_alive, -torch.inf)
        if self.space.normalize == "codebook":
            log_sum = logits.logsumexp(-1)
        else:
            log_sum = torch.stack([segment_logsumexp(x, parent, num_nodes) for x in chosen])
        log_sum = log_sum.masked_fill(log_sum == -torch.inf, torch.inf)  # all -inf: none is left
        scores = scores[:, parent] + (chosen - log_sum[:, parent])
        if level + 1 == trie.num_levels:
            self.leaf_scores[:, child] = scores
            return
        numbers = self.writer.model.next_prefixes(prefixes.numbers[parent], code, level)
        for begin in range(0, len(code), self.chunk):
            part = slice(begin, begin + self.chunk)
            itself = torch.arange(len(code[part]), device=code.device) + level * self.chunk
            seen = torch.cat([prefixes.ancestors[parent[part]], itself[:, None]], dim=1)
            below = _Prefixes(child.start + begin, numbers[part], seen)
            logits = self._forward(level, code[part], below)
            self.descend(level + 1, below, logits, scores[:, part])

    def _forward(self, level: int, codes: Tensor, prefixes: _Prefixes) -> Tensor:
        """Runs the codes of one level after their prefixes -> the next level's float32 logits."""
        writer, batch = self.writer, len(self.leaf_scores)
        if writer.model.has_heads:
            states = writer.by_head(level + 1)
        else:
            ancestors = prefixes.ancestors.expand(batch, -1, -1)
            attend = TreeAttention(self.cache, ancestors, begin=level * self.chunk)
            states = writer.by_step(level + 1, codes.expand(batch, -1), attend)
        return writer.model.logits(states, level + 1, prefixes.numbers.expand(batch, -1)).float()


def _is_bad(logits: Tensor) -> Tensor:
    """Says which requests have a logit NaN or +inf, (batch,) bool; NaN is a row's maximum."""
    return ~(logits.amax((1, 2)) < torch.inf)


def _check_finite(bad: list[Tensor]) -> None:
    """Refuses requests that are bad at a level: of the first such level. Waits once."""
    for level, is_bad in enumerate(torch.stack(bad).cpu()):
        if bool(is_bad.any()):
            requests = is_bad.nonzero()[:, 0].tolist()
            raise NonFiniteLogitsError(requests, f"level {level}: logits NaN or +inf")
