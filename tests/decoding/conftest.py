"""Tiny random engines, models and catalogues for the tests of decoding."""

import numpy as np
import pytest
import torch

from store_engine._C import ItemTrie
from store_engine.config import Config, DataConfig, EvalConfig, ModelConfig, dump_config
from store_engine.data.catalog import Catalog
from store_engine.data.text_vocabulary import TextVocabulary
from store_engine.decoding.contexts import pack
from store_engine.decoding.engine import Engine
from store_engine.decoding.kv_cache import KVCache
from store_engine.decoding.run_directory import mark_run
from store_engine.decoding.trie_arrays import TrieArrays
from store_engine.model.store_model import StoreModel
from store_engine.model.weights import save_weights
from store_engine.sid.sid_table import SidTable

BOS = 1
SIZES = (6, 5, 7)
SMALL = {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2}
SMALL |= {"head_dim": 8, "intermediate_size": 48}


def random_sids(num_items, sizes=SIZES, seed=0):
    rng = np.random.default_rng(seed)
    return np.stack([rng.integers(0, size, num_items) for size in sizes], 1).astype(np.int32)


def random_model(sizes=SIZES, text_vocab_size=20, **changes):
    model = StoreModel(ModelConfig(**(SMALL | changes)), text_vocab_size, sizes).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:  # far from indifferent: items differ by more than rounding
            torch.nn.init.normal_(parameter, std=0.3)
    return model.requires_grad_(False)


@pytest.fixture
def make_model():
    return random_model


class Bench:
    """A model with a catalogue, and the searches' other arguments made from plain histories."""

    def __init__(self, sids, sizes=SIZES, **model):
        self.sids = sids
        self.model = random_model(sizes, **model)
        self.trie = TrieArrays(ItemTrie(sids, list(sizes)))
        self.cache = KVCache(self.model.config, torch.device("cpu"), torch.float32)
        self.item_tokens = self.model.code_tokens(torch.from_numpy(sids).long())

    def contexts(self, histories):
        return pack([np.array(h, dtype=np.int64) for h in histories], self.item_tokens, BOS)

    def tokens(self, history):
        """One history, written by hand."""
        codes = [self.item_tokens[row] for row in history]
        return torch.cat([torch.tensor([BOS]), *codes])


@pytest.fixture
def make_bench():
    def make(num_items=60, sizes=SIZES, sids=None, **model):
        return Bench(random_sids(num_items, sizes) if sids is None else sids, sizes, **model)

    return make


def catalog_of(num_items):
    ids = tuple(f"item {row}" for row in range(num_items))
    return Catalog(ids, {"title": tuple(f"Title [of] {i}" for i in ids)})


@pytest.fixture
def make_engine():
    def make(num_items=60, sids=None, dtype=torch.float32, **config):
        sids = random_sids(num_items) if sids is None else sids
        catalog = catalog_of(len(sids))
        config = EvalConfig(**({"beam_width": 20, "prefix_cache_mib": 0} | config))
        return Engine(
            random_model().to(dtype),
            catalog,
            sids,
            bos=BOS,
            max_history=8,
            config=config,
        )

    return make


@pytest.fixture
def histories():
    """Catalogue rows of unequal histories: repeated items, one item, none."""
    return [[3, 1, 4, 1, 5, 9], [2], [], [7, 1, 8, 2, 8, 1, 8], [30, 31, 32]]


@pytest.fixture
def run_dir(tmp_path):
    """A finished run, as training leaves it, but with random weights."""
    catalog, sids = catalog_of(60), random_sids(60)
    config = Config(
        data=DataConfig(max_history=8),
        model=ModelConfig(**SMALL),
        eval=EvalConfig(beam_width=30),
    )
    vocabulary = TextVocabulary.train(catalog.fields["title"], vocab_size=300)
    mark_run(tmp_path, "0.1.0")
    (tmp_path / "config.toml").write_text(dump_config(config))
    catalog.save(tmp_path / "items.jsonl")
    vocabulary.save(tmp_path)
    SidTable(sids, SIZES, catalog.item_ids).save(tmp_path / "sids.npz")
    ItemTrie(sids, list(SIZES)).save(tmp_path / "trie.bin")
    model = random_model(text_vocab_size=len(vocabulary))
    save_weights(model.state_dict(), tmp_path / "model.safetensors")
    return tmp_path
