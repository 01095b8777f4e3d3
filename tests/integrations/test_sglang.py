"""SGLang's custom logit processor: by its base class where that is installed, else its protocol.

SGLang's wheel asks for CUDA libraries, it has none for a CPU. The protocol: `to_str` and `from_str`
carry the class, which is made without arguments; `__call__(logits, custom_param_list)` gets a row
and a dictionary for each request, in which "__req__" is the request.
"""

import json
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from store_engine._C import ItemTrie
from store_engine.errors import InputError
from store_engine.integrations.sid_constraint import SidConstraint

PLACE = "sglang.srt.sampling.custom_logit_processor"
SIDS = np.array([[2, 0], [0, 1], [2, 3], [0, 0]], dtype=np.int32)  # sizes 3, 4; ids from 20, 23


@pytest.fixture
def processor(monkeypatch):
    try:
        __import__(PLACE)
    except ImportError:
        names = PLACE.split(".")
        for end in range(1, len(names) + 1):
            monkeypatch.setitem(
                sys.modules, ".".join(names[:end]), ModuleType(".".join(names[:end]))
            )
        sys.modules[PLACE].CustomLogitProcessor = type("CustomLogitProcessor", (), {})
        monkeypatch.delitem(sys.modules, "store_engine.integrations.sglang", raising=False)
    from store_engine.integrations.sglang import SidLogitProcessor

    if hasattr(SidLogitProcessor, "to_str"):  # the real one: as a server gets it
        return SidLogitProcessor.from_str(SidLogitProcessor.to_str())
    return SidLogitProcessor()


@pytest.fixture
def folder(tmp_path):
    facts = {"text_vocab_size": 20, "codebook_sizes": [3, 4], "is_plain": True}
    (tmp_path / "config.json").write_text(json.dumps({"store_engine": facts}))
    ItemTrie(SIDS, [3, 4]).save(str(tmp_path / "trie.bin"))
    return tmp_path


def request(folder, prompt, output):
    own = {} if folder is None else {"exported": str(folder)}
    return own | {"__req__": SimpleNamespace(origin_input_ids=prompt, output_ids=output)}


def test_each_request_of_a_batch_is_constrained_by_its_own_folder(processor, folder, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    ItemTrie(SIDS[:1], [3, 4]).save(str(other / "trie.bin"))
    (other / "config.json").write_text((folder / "config.json").read_text())
    batch = [
        request(folder, [1], []),
        request(None, [1], [22]),
        request(folder, [1, 22, 26], [22]),
        request(other, [1], [22]),
        None,
    ]
    logits = torch.randn(5, 30)  # three columns of padding
    got = processor(logits.clone(), batch)
    rows = {0: [20, 22], 2: [23, 26], 3: [23]}
    for row, allowed in rows.items():
        assert (got[row] > -torch.inf).nonzero().flatten().tolist() == allowed
    constraint = SidConstraint(folder)
    ends = torch.tensor([[-1, 1], [26, 22]])
    torch.testing.assert_close(got[[0, 2]], constraint.logprobs(ends, logits[[0, 2]]))
    assert torch.equal(got[[1, 4]], logits[[1, 4]])


def test_a_folder_that_is_none_is_refused(processor, tmp_path):
    with pytest.raises(InputError, match=r"config\.json"):
        processor(torch.zeros(1, 30), [request(tmp_path / "no", [1], [])])


@pytest.mark.parametrize("parameters", [None, []])
def test_without_parameters_nothing_changes(processor, parameters):
    logits = torch.randn(2, 30)
    assert torch.equal(processor(logits.clone(), parameters), logits)
