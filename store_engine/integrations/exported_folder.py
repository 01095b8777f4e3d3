"""What other engines need of a folder of `store-engine export`: its catalogue."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from store_engine._C import ItemTrie
from store_engine.errors import InputError, shown
from store_engine.files.json_file import read_json
from store_engine.files.regular import open_regular, parse_errors


class ExportedCatalog(NamedTuple):
    """What an exported folder says of its items."""

    trie: ItemTrie
    text_vocab_size: int


def read_exported(folder: Path) -> ExportedCatalog:
    """Reads which tokens lead to an item of an exported catalogue.

    Args:
        folder: Of `store-engine export`; config.json and trie.bin are read.

    Raises:
        InputError: It is none, is damaged, or its LLM is not all of the recommender.
    """
    path, trie_path = folder / "config.json", folder / "trie.bin"
    facts = _facts(path)
    with parse_errors(trie_path, "a readable trie"):
        open_regular(trie_path).close()  # a FIFO would block the core
        trie = ItemTrie.load(str(trie_path))
    if list(trie.codebook_sizes) != facts["codebook_sizes"]:
        raise InputError(
            f"{trie_path}: has codebooks of {list(trie.codebook_sizes)}, config.json says "
            f"{facts['codebook_sizes']}"
        )
    size = facts["text_vocab_size"]
    if type(size) is not int or size < 1:
        raise InputError(
            f"{path}: text_vocab_size must be a whole number of at least 1, got {shown(size)}"
        )
    return ExportedCatalog(trie, size)


def last_tokens(sequences: Sequence[tuple[Sequence[int], Sequence[int]]], num: int) -> Tensor:
    """Takes the ends of sequences, as a `SidConstraint` reads them.

    Args:
        sequences: For each its prompt and what was written since.
        num: Tokens wanted.

    Returns:
        (num_sequences, num) int64, filled up with -1 on the left.
    """
    ends = np.full((len(sequences), num), -1, dtype=np.int64)
    for row, (prompt, output) in enumerate(sequences):
        end = [*prompt[-num:], *output[-num:]][-num:]
        ends[row, num - len(end) :] = end
    return torch.from_numpy(ends)


def _facts(path: Path) -> dict[str, Any]:
    """The part of config.json that is ours."""
    facts = read_json(path).get("store_engine")
    if not isinstance(facts, dict) or not {"codebook_sizes", "text_vocab_size"} <= facts.keys():
        raise InputError(f"{path}: was not written by `store-engine export`")
    if facts.get("is_plain") is not True:
        raise InputError(
            f"{path}: item rows or heads stand beside this LLM; another engine recommends with a "
            "model that reads and writes codes alone"
        )
    return facts
