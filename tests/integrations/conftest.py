"""A tiny random model with a catalogue, to export."""

import numpy as np
import pytest
import torch

from store_engine._C import ItemTrie
from store_engine.config import ModelConfig
from store_engine.model.store_model import StoreModel

TEXT_VOCAB_SIZE = 20
SIZES = (6, 5, 7)


@pytest.fixture
def make_model():
    def make(sizes=SIZES, **changes):
        config = {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2}
        config |= {"head_dim": 8, "intermediate_size": 48}
        model = StoreModel(ModelConfig(**(config | changes)), TEXT_VOCAB_SIZE, sizes).eval()
        for parameter in model.parameters():
            # also the norms, so that one put in another's place would show
            torch.nn.init.normal_(parameter, mean=float(parameter.ndim == 1), std=0.3)
        return model.requires_grad_(False)

    return make


@pytest.fixture
def sids():
    rng = np.random.default_rng(0)
    sids = np.stack([rng.integers(0, size, 60) for size in SIZES], 1)
    return np.unique(sids, axis=0).astype(np.int32)


@pytest.fixture
def item_trie(sids):
    return ItemTrie(sids, list(SIZES))
