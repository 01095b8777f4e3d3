"""Which tokens lead to an item, for the logits processors of other engines.

It reads from the last tokens of a sequence which codes its unfinished SID has so far and keeps no
state: one object serves any number of calls, batches, beams and threads.
"""

from numbers import Integral
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from store_engine._C import ItemTrie, LiveTrie, Snapshot, next_codes
from store_engine.catalog.trie_arrays import SearchTrie
from store_engine.decoding.engine import Engine
from store_engine.errors import InputError, shown
from store_engine.integrations.exported_folder import read_exported
from store_engine.model.unified_vocabulary import UnifiedVocabulary

AnyCatalog = str | Path | Engine | SearchTrie | ItemTrie | Snapshot | LiveTrie


class SidConstraint:
    """The catalogue's SIDs as a rule over unified token ids.

    Args:
        catalog: A run's directory or a folder of `store-engine export`, an `Engine`,
            `engine.trie`, an `ItemTrie`, a `Snapshot` or a `LiveTrie`, each taken as it is now:
            make another to see a change, which costs nothing.
        text_vocab_size: Unified id of the first code, which is the number of text tokens; only a
            trie needs it said.

    Raises:
        TypeError: `catalog` is none of these, or `text_vocab_size` is no integer.
        ValueError: `text_vocab_size` is below 1.
        InputError: The folder is none of these, or the model does not write its SIDs as code
            tokens alone.
    """

    def __init__(self, catalog: AnyCatalog, text_vocab_size: int | None = None) -> None:
        if isinstance(catalog, str | Path):
            folder = Path(catalog)
            if (folder / "run.json").exists():
                catalog = Engine.load(folder, device="cpu")
            else:
                catalog, text_vocab_size = read_exported(folder)
        self.trie = trie_of(catalog)
        if isinstance(catalog, Engine):
            _check_writes_codes(catalog)
            text_vocab_size = catalog.model.text_vocab_size
        size = _check_text_vocab_size(text_vocab_size)
        self.vocabulary = UnifiedVocabulary(size, tuple(self.trie.codebook_sizes))

    def allowed(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Finds the codes that may follow each sequence.

        Args:
            tokens: (num_sequences, seq_len) unified ids on any device, padded on the left.

        Returns:
            is_allowed: (num_sequences, num_codes) bool on that device; column i is the unified id
                text_vocab_size + i. No other token may follow.
            levels: (num_sequences,) int64 on the CPU, the level of the code that follows.
        """
        ends = tokens[:, -self.vocabulary.num_levels :].cpu().long().contiguous()
        is_allowed, levels = next_codes(self.trie, ends.numpy(), self.vocabulary.text_size)
        return torch.from_numpy(is_allowed).to(tokens.device), torch.from_numpy(levels)

    def logprobs(self, tokens: Tensor, logits: Tensor) -> Tensor:
        """Computes the log-probability of each next code within its level.

        Args:
            tokens: As for `allowed`.
            logits: (num_sequences, vocab_size) logits or log-probabilities; columns behind the
                codes are padding.

        Returns:
            (num_sequences, vocab_size), -inf wherever no item can follow.

        Raises:
            ValueError: `vocab_size` is less than text and codes take.
        """
        self.check_vocab_size(logits.shape[-1])
        is_allowed, levels = self.allowed(tokens)
        constrained = torch.full_like(logits, -torch.inf)
        text_size = self.vocabulary.text_size
        of_level = zip(self.vocabulary.level_offsets, self.vocabulary.codebook_sizes, strict=True)
        spans = [slice(begin, begin + size) for begin, size in of_level]
        for level in np.unique(levels.numpy()).tolist():
            span, is_here = spans[level], levels == level
            # in nearly every call all sequences are at one level: then nothing is picked out
            rows = slice(None) if bool(is_here.all()) else is_here.to(logits.device)
            allowed = is_allowed[rows, span.start - text_size : span.stop - text_size]
            logprobs = logits[rows, span].log_softmax(-1).masked_fill(~allowed, -torch.inf)
            constrained[rows, span] = logprobs
        return constrained

    def check_vocab_size(self, size: int) -> None:
        """Refuses a model whose vocabulary has no room for text and codes.

        Raises:
            ValueError: It has none.
        """
        if size < len(self.vocabulary):
            raise ValueError(
                f"the model's vocabulary must have at least {len(self.vocabulary)} tokens, text "
                f"and codes, got {size}"
            )


def trie_of(catalog: object) -> ItemTrie | Snapshot:
    """Returns the core's trie of a catalogue in any of its forms, as it is now.

    Raises:
        TypeError: It is none.
    """
    if isinstance(catalog, Engine):
        catalog = catalog.trie
    if isinstance(catalog, SearchTrie):
        return catalog.item_trie
    if isinstance(catalog, LiveTrie):
        return catalog.snapshot()
    if isinstance(catalog, ItemTrie | Snapshot):
        return catalog
    raise TypeError(
        f"must be an Engine, its trie, an ItemTrie or a folder, got {type(catalog).__name__}"
    )


def _check_writes_codes(engine: Engine) -> None:
    if not engine.model.is_plain:
        raise InputError(
            "only a model that reads and writes codes is one for other engines, got one with "
            "recommender.decoder = 'heads', history = 'items', skip = true or "
            "tokenizer.last_level = 'item'"
        )


def _check_text_vocab_size(size: object) -> int:
    if isinstance(size, bool) or not isinstance(size, Integral):
        raise TypeError(
            f"text_vocab_size must be an integer, got {shown(size)}; an Engine, a run's directory "
            f"or an exported folder in place of a trie says it itself"
        )
    if size < 1:
        raise ValueError(f"text_vocab_size must be at least 1, got {shown(size)}")
    return int(size)
