import os
from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks import train
from benchmarks.train import (
    CODEBOOK_SIZES,
    MODELS,
    PackedStoreModel,
    PlainEngine,
    Task,
    draw_documents,
    packed_batch,
    padded_batch,
    split_steps,
    useful_flops,
)
from store_engine.model.store_model import StoreModel

TASK = Task("ours", "hidden=256,layers=4", "float32", "", 1, 2, 3, 1)


def test_every_provider_learns_the_same_tokens():
    documents = draw_documents(TASK)
    assert len(documents) == 6
    for provider in (*train.PEERS, "ours"):
        steps = split_steps(replace(TASK, provider=provider), documents)
        assert len(steps) == TASK.num_steps
        taken = sorted(id(document) for step in steps for document in step)
        assert taken == sorted(map(id, documents))


def test_useful_flops_count_matrix_products_alone():
    """By hand: each multiply-add is two, forward once and backward twice."""
    config = MODELS[TASK.model]
    documents = draw_documents(TASK)
    want = 0.0
    for document in documents:
        length = len(document.tokens)
        qkvo = 2 * config.hidden_size * 64 * (config.num_heads + config.num_kv_heads)
        mlp = 3 * config.hidden_size * config.intermediate_size
        pairs = length * (length + 1) / 2  # a token sees itself and those before
        attention = 2 * pairs * config.num_heads * 64
        layer = length * (qkvo + mlp) + attention
        want += config.num_layers * layer + length * config.hidden_size * CODEBOOK_SIZES[0]
    assert useful_flops(TASK, documents) == pytest.approx(3 * 2 * want)


def test_the_plain_engine_lowers_the_loss(monkeypatch):
    small = replace(MODELS[TASK.model], num_layers=1, hidden_size=64, num_heads=1, num_kv_heads=1)
    monkeypatch.setattr(train, "TEXT_VOCAB_SIZE", 300)
    documents = draw_documents(TASK)[:3]
    engine = PlainEngine(PackedStoreModel(StoreModel(small, 300, CODEBOOK_SIZES)))
    losses = []
    for _ in range(5):
        loss = engine(*packed_batch(documents, "cpu"))
        engine.backward(loss)
        engine.step()
        losses.append(loss.item())
    assert np.all(np.diff(losses) < 0)


def test_padding_has_no_target():
    documents = draw_documents(TASK)
    tokens, mask, targets = padded_batch(documents, "cpu")
    assert tokens.shape == mask.shape == targets.shape
    assert torch.equal(targets == -100, mask == 0)
    assert int(mask.sum()) == sum(len(document.tokens) for document in documents)


@pytest.mark.parametrize("has_deepspeed", [True, False])
def test_the_case_says_which_engine_trained(monkeypatch, has_deepspeed):
    monkeypatch.setattr(train, "HAS_DEEPSPEED", has_deepspeed)
    assert TASK.case.endswith("engine=torch") != has_deepspeed


@pytest.mark.parametrize(
    ("device", "visible", "want"),
    [
        ("cpu", "2,5", ("cpu", "2,5")),
        ("cuda", "2,5", ("cuda", "2,5")),
        ("cuda:1", "2,5", ("cuda", "5")),
        ("cuda:1", "", ("cuda", "1")),
        ("cuda:0", "GPU-a", ("cuda", "GPU-a")),
    ],
)
def test_a_process_sees_the_gpu_that_it_is_to_use(monkeypatch, device, visible, want):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert (train.see_one_gpu(device), os.environ["CUDA_VISIBLE_DEVICES"]) == want
