import json

import numpy as np
import pytest
import torch

from store_engine._C import ItemTrie
from store_engine.errors import InputError
from store_engine.integrations.exported_folder import last_tokens
from store_engine.integrations.sid_constraint import SidConstraint

FACTS = {"text_vocab_size": 20, "codebook_sizes": [3, 4], "is_plain": True}
SIDS = np.array([[2, 0], [0, 1], [2, 3], [0, 0]], dtype=np.int32)


@pytest.fixture
def folder(tmp_path):
    """folder(facts) is what `store-engine export` writes of a catalogue."""
    ItemTrie(SIDS, [3, 4]).save(str(tmp_path / "trie.bin"))

    def write(facts):
        (tmp_path / "config.json").write_text(json.dumps({"store_engine": facts}))
        return tmp_path

    return write


def test_it_constrains_to_the_items_of_the_trie(folder):
    constraint = SidConstraint(folder(FACTS))
    is_allowed, levels = constraint.allowed(torch.tensor([[1, 1], [1, 22], [22, 23]]))
    assert [row.nonzero().flatten().tolist() for row in is_allowed] == [[0, 2], [3, 6], [0, 2]]
    assert levels.tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        (None, "was not written by `store-engine export`"),
        ({"codebook_sizes": [3, 4]}, "was not written by"),
        (FACTS | {"is_plain": False}, "item rows or heads"),
        (FACTS | {"is_plain": 1}, "item rows or heads"),
        (
            FACTS | {"codebook_sizes": [3, 5]},
            r"has codebooks of \[3, 4\], config.json says \[3, 5\]",
        ),
        (FACTS | {"text_vocab_size": "20"}, "config.json: text_vocab_size must be a whole number"),
        (FACTS | {"text_vocab_size": True}, "must be a whole number"),
        (FACTS | {"text_vocab_size": 0}, "at least 1"),
    ],
)
def test_what_is_no_export_is_refused(folder, facts, message):
    with pytest.raises(InputError, match=message):
        SidConstraint(folder(facts))


def test_damaged_and_missing_files_are_named(folder, tmp_path):
    with pytest.raises(InputError, match=r"config\.json"):
        SidConstraint(tmp_path / "nowhere")
    path = folder(FACTS) / "trie.bin"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(InputError, match=r"trie\.bin"):
        SidConstraint(tmp_path)
    path.unlink()
    with pytest.raises(InputError, match=r"trie\.bin"):
        SidConstraint(tmp_path)


@pytest.mark.parametrize(
    ("prompt", "output", "ends"),
    [
        ([], [], [-1, -1, -1]),
        ([1], [], [-1, -1, 1]),
        ([1, 2, 3, 4], [], [2, 3, 4]),
        ([1, 2, 3, 4], [5], [3, 4, 5]),
        ([1], [5, 6, 7, 8], [6, 7, 8]),
        ([], [5], [-1, -1, 5]),
    ],
)
def test_last_tokens(prompt, output, ends):
    assert last_tokens([(prompt, output)], 3).tolist() == [ends]
    assert last_tokens([], 3).shape == (0, 3)
