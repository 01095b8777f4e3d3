"""The catalogue's trie for people who stay on `transformers.generate`.

    exported = export_huggingface(engine.model)
    exported.generate(prompts, num_beams=20, num_return_sequences=20, max_new_tokens=num_levels,
                      do_sample=False, length_penalty=0.0,
                      logits_processor=[TrieLogitsProcessor(engine)])

Pad on the left.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from transformers import LogitsProcessor

from store_engine.integrations.sid_constraint import AnyCatalog, SidConstraint


class TrieLogitsProcessor(LogitsProcessor):
    """Leaves only codes that lead to an item, with their log-probability within the level.

    Scores then equal those of an engine with `normalize="codebook"`. Unlike transformers' own
    prefix hook it makes no Python call per beam: one call of the C++ core finds the codes of all
    sequences. A beam without continuation stays at -inf instead of failing the batch.

    Args:
        catalog: A run's directory or an exported folder, an `Engine`, `engine.trie`, an `ItemTrie`,
            a `Snapshot` or a `LiveTrie`, each taken as it is now: make another to see a change.
        text_vocab_size: Unified id of the first code; only a trie needs it said.
    """

    def __init__(self, catalog: AnyCatalog, text_vocab_size: int | None = None) -> None:
        self._constraint = SidConstraint(catalog, text_vocab_size)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Constrains one step.

        Args:
            input_ids: (num_sequences, seq_len) int64 unified ids, prompts included.
            scores: (num_sequences, vocab_size) logits or log-probabilities.

        Returns:
            (num_sequences, vocab_size), -inf wherever no item can follow.
        """
        return self._constraint.logprobs(input_ids, scores)


def prefix_allowed_tokens_fn(
    catalog: AnyCatalog, text_vocab_size: int | None = None
) -> Callable[[int, Tensor], list[int]]:
    """Makes the callback that `generate(prefix_allowed_tokens_fn=...)` takes.

    It constrains only: transformers normalises over the whole vocabulary, and refuses a batch in
    which any beam has no continuation. `TrieLogitsProcessor` has neither fault and is faster.

    Args:
        catalog: As for `TrieLogitsProcessor`.
        text_vocab_size: As there.

    Returns:
        A function of (batch_id, unified ids (seq_len,)) that lists the unified ids that may follow.
    """
    constraint = SidConstraint(catalog, text_vocab_size)

    def allowed(batch_id: int, input_ids: Tensor) -> list[int]:
        is_allowed, _ = constraint.allowed(input_ids[None])
        tokens: list[int] = (
            torch.nonzero(is_allowed[0])[:, 0] + constraint.vocabulary.text_size
        ).tolist()
        return tokens

    return allowed
