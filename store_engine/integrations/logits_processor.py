"""The catalogue's trie for people who stay on `transformers.generate`.

    exported = export_huggingface(engine.model)
    exported.generate(prompts, num_beams=20, num_return_sequences=20, max_new_tokens=num_levels,
                      do_sample=False, length_penalty=0.0,
                      logits_processor=[TrieLogitsProcessor(trie, engine.model.text_vocab_size)])

Both constraints read from the last tokens of a sequence which codes its unfinished SID has so far:
they keep no state, so one object serves any number of calls, batches and threads. Pad on the left.
"""

from collections.abc import Callable
from numbers import Integral

import torch
from torch import Tensor
from transformers import LogitsProcessor

from store_engine._C import ItemTrie, Snapshot
from store_engine.catalog.trie_arrays import SearchTrie, TrieArrays, arrays_of
from store_engine.errors import shown
from store_engine.model.unified_vocabulary import UnifiedVocabulary

AnyTrie = ItemTrie | Snapshot | SearchTrie


class TrieLogitsProcessor(LogitsProcessor):
    """Leaves only codes that lead to an item, with their log-probability within the level.

    Scores then equal those of an engine with `normalize="codebook"`. Unlike transformers'
    own prefix hook it makes no Python call per beam, and a beam without continuation stays at -inf
    instead of failing the batch.

    Args:
        item_trie: The catalogue: an `ItemTrie`, or `engine.trie`, which is taken as it is now.
        text_vocab_size: Unified id of the first code.
    """

    def __init__(self, item_trie: AnyTrie, text_vocab_size: int) -> None:
        self._trie = arrays_of(item_trie)
        self._offsets = _level_offsets(self._trie, text_vocab_size)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Constrains one step.

        Args:
            input_ids: (num_sequences, seq_len) int64 unified ids, prompts included.
            scores: (num_sequences, vocab_size) logits or log-probabilities.

        Returns:
            (num_sequences, vocab_size), -inf wherever no item can follow.
        """
        if input_ids.device != self._trie.device:
            self._trie = TrieArrays(self._trie.item_trie, input_ids.device)
        trie, constrained = self._trie, torch.full_like(scores, -torch.inf)
        level_of = _next_level(input_ids[:, -1].contiguous(), self._offsets)
        for level in level_of.unique().tolist():
            sequences = (level_of == level).nonzero().squeeze(1)
            begin = self._offsets[level]
            prefixes = input_ids[sequences, input_ids.shape[1] - level :]
            nodes = trie.find(prefixes - input_ids.new_tensor(self._offsets[:level]))
            sequences, nodes = sequences[nodes >= 0], nodes[nodes >= 0]
            level_scores = scores[sequences, begin : begin + trie.codebook_sizes[level]]
            logprobs = level_scores.log_softmax(-1)
            owner, child = trie.children(level, nodes)
            code = trie.token[level][child]
            constrained[sequences[owner], begin + code] = logprobs[owner, code]
        return constrained


def prefix_allowed_tokens_fn(
    item_trie: AnyTrie, text_vocab_size: int
) -> Callable[[int, Tensor], list[int]]:
    """Makes the callback that `generate(prefix_allowed_tokens_fn=...)` takes.

    It constrains only: transformers normalises over the whole vocabulary, and refuses a batch in
    which any beam has no continuation. `TrieLogitsProcessor` has neither fault and is faster.

    Args:
        item_trie: The catalogue, as for `TrieLogitsProcessor`.
        text_vocab_size: Unified id of the first code.

    Returns:
        A function of (batch_id, unified ids (seq_len,)) that lists the unified ids that may follow.
    """
    trie = arrays_of(item_trie)
    offsets = _level_offsets(trie, text_vocab_size)

    def allowed(batch_id: int, input_ids: Tensor) -> list[int]:
        input_ids = input_ids.cpu()
        level = int(_next_level(input_ids[-1:], offsets))
        prefix = input_ids[len(input_ids) - level :] - torch.tensor(offsets[:level]).long()
        nodes = trie.find(prefix[None])
        _, child = trie.children(level, nodes[nodes >= 0])
        tokens: list[int] = (trie.token[level][child] + offsets[level]).tolist()
        return tokens

    return allowed


def _level_offsets(trie: TrieArrays, text_vocab_size: int) -> list[int]:
    if isinstance(text_vocab_size, bool) or not isinstance(text_vocab_size, Integral):
        raise TypeError(f"text_vocab_size must be an integer, got {shown(text_vocab_size)}")
    if text_vocab_size < 1:
        raise ValueError(f"text_vocab_size must be at least 1, got {shown(text_vocab_size)}")
    sizes = tuple(trie.codebook_sizes)
    return list(UnifiedVocabulary(int(text_vocab_size), sizes).level_offsets)


def _next_level(last: Tensor, offsets: list[int]) -> Tensor:
    """Level of the code that follows each token (n,): 0 after text and after a whole SID."""
    level = torch.bucketize(last, last.new_tensor(offsets), right=True)
    return level % len(offsets)
