"""What the new weights beside a backbone begin with; `training.initial_weights` makes them."""

import dataclasses

import numpy as np
import pytest
import torch

from store_engine.config import ModelConfig, load_config
from store_engine.model.backbones.backbone import Backbone, backbone_sizes
from store_engine.model.store_model import StoreModel
from store_engine.sid.dense_tokenizer import DenseTokenizer
from store_engine.sid.quantizers.parallel import ParallelQuantizer
from store_engine.sid.quantizers.quantizer import FitSettings
from store_engine.sid.sid_table import SidTable
from store_engine.training.initial_weights import (
    initial_recommender_weights,
    initial_tokenizer_weights,
)

transformers = pytest.importorskip("transformers")


@pytest.fixture
def config(tmp_path):
    """A config whose backbone has embeddings around 0.5, with a standard deviation of 0.1."""
    theirs = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=300, hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=1, intermediate_size=48,
        )
    )  # fmt: skip
    torch.nn.init.normal_(theirs.model.embed_tokens.weight, mean=0.5, std=0.1)
    torch.nn.init.constant_(theirs.model.norm.weight, 2.0)
    theirs.save_pretrained(tmp_path)
    overrides = [f"model.backbone={tmp_path}", "tokenizer.num_codes=4"]
    return load_config(None, overrides, backbone_sizes)


def is_like_the_text(embeddings):
    return abs(embeddings.mean() - 0.5) < 0.05 and 0.08 < (embeddings - 0.5).std() < 0.13


def test_the_palette_looks_like_text(config):
    weights = dict(initial_tokenizer_weights(config, 290))
    assert weights["palette.weight"].shape == (4, 32)
    assert is_like_the_text(weights["palette.weight"])
    assert weights["model.text_embedding.weight"].shape == (290, 32)
    assert weights["model.text_head.weight"].shape == (290, 32)


def test_dense_tokens_are_pasted_in_at_the_size_of_text(config):
    # the backbone's norm gives vectors of RMS 2, its text embeddings have 0.51
    gain = dict(initial_tokenizer_weights(config, 290))["paste_gain.weight"]
    assert gain.item() == pytest.approx(0.51 / 2, rel=0.02)
    tokenizer = DenseTokenizer(StoreModel(config.model, 290), 4)
    assert dict(tokenizer.named_parameters())["paste_gain.weight"].shape == gain.shape
    from_scratch = DenseTokenizer(StoreModel(ModelConfig(), 290), 4)
    assert "paste_gain.weight" not in dict(from_scratch.named_parameters())


@pytest.mark.parametrize("scoring", [0.0, 0.5], ids=["codes", "and labels"])
@pytest.mark.parametrize("init_codes", ["centroids", "normal"])
def test_codes_look_like_text_and_are_equally_likely(init_codes, scoring, config):
    changed = dataclasses.replace(config.recommender, init_codes=init_codes, scoring=scoring)
    config = dataclasses.replace(config, recommender=changed)
    vectors = np.random.default_rng(0).normal(size=(60, 4, 32)).astype(np.float32)
    quantizer = ParallelQuantizer.fit(vectors, FitSettings(4, 8, 16, 5, 0))
    sids = np.pad(quantizer.encode(vectors), ((0, 0), (0, 1)))  # a suffix level behind
    ids = tuple(map(str, range(60)))
    table = SidTable(sids.astype(np.int32), (8, 8, 8, 8, 3), ids, quantizer)
    stage_1 = dict(initial_tokenizer_weights(config, 290))
    weights = initial_recommender_weights(config, stage_1, table, 2 if scoring else 0)
    num_tokens = 37 if scoring else 35
    assert weights["code_embedding.weight"].shape == (num_tokens, 32)
    assert is_like_the_text(weights["code_embedding.weight"])
    assert torch.equal(weights["code_head.weight"], torch.zeros(num_tokens, 32))
    assert "text_embedding.weight" in weights


def test_from_scratch_nothing_is_filled():
    assert list(initial_tokenizer_weights(load_config(), 290)) == []


@pytest.mark.parametrize(
    ("num_items", "codebook_size", "spread"),
    [(1, 1, 1.0), (60, 1, 1.0), (60, 4, 0.0), (60, 4, 1e-30)],
    ids=["one item", "one code", "one text", "almost one text"],
)
@pytest.mark.parametrize("has_backbone", [False, True])
def test_codes_that_do_not_differ_are_no_nan(
    num_items, codebook_size, spread, has_backbone, config
):
    stage_1 = dict(initial_tokenizer_weights(config, 290))
    if not has_backbone:
        config = load_config(None, ["tokenizer.num_codes=4", "model.hidden_size=32"])
    vectors = np.random.default_rng(0).normal(1.0, spread, (num_items, 4, 32)).astype(np.float32)
    quantizer = ParallelQuantizer.fit(vectors, FitSettings(4, codebook_size, 16, 5, 0))
    codes = quantizer.encode(vectors)
    assert codes.min() >= 0
    assert codes.max() < codebook_size
    table = SidTable(codes, (codebook_size,) * 4, tuple(map(str, range(num_items))), quantizer)
    weights = initial_recommender_weights(config, stage_1, table)["code_embedding.weight"]
    assert weights.shape == (4 * codebook_size, 32)
    assert weights.isfinite().all()
    assert len(weights.unique(dim=0)) == len(weights)  # codes can be told apart


def test_a_backbone_whose_last_norm_is_zero_gives_no_infinite_gain(config, monkeypatch):
    tensors = {
        "text_embedding.weight": torch.ones(5, 32),
        "transformer.norm.weight": torch.zeros(32),
    }
    monkeypatch.setattr(Backbone, "weights", lambda self, size: iter(tensors.items()))
    assert dict(initial_tokenizer_weights(config, 5))["paste_gain.weight"].item() == 1.0
