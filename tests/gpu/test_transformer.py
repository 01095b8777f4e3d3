"""A layer of the transformer on a pretended device: what it launches, forward and backward."""

import pytest
import torch
from pretended_device import DEVICE, pretended_device

from store_engine.config import ModelConfig
from store_engine.model.attention import PackedSequences
from store_engine.model.transformer import Transformer

MOST_LAUNCHES = 60


def launches_and_gradients(config, device=None):
    torch.manual_seed(0)
    transformer, x = Transformer(config), torch.randn(12, 32)
    sequences = PackedSequences(torch.tensor([0, 5, 9, 12]))
    if device is not None:
        device.put(transformer)
        sequences, x = sequences.to(DEVICE), x.to(DEVICE)
        device.launches.clear()
    x.requires_grad_()
    transformer(x, sequences.positions, sequences).square().sum().backward()
    return 0 if device is None else sum(device.launches.values()), x.grad


def config_of(num_layers, **changes):
    return ModelConfig(32, num_layers, 4, 2, 8, 48, **({"dropout": 0.0} | changes))


@pytest.mark.parametrize(
    "changes",
    [{}, {"qk_norm": True, "attention_bias": "all"}, {"dropout": 0.1, "dropout_places": ("mlp",)}],
    ids=["llama", "qwen", "dropout"],
)
def test_a_layer_launches_little(changes):
    with pretended_device() as gpu:
        one, three = (launches_and_gradients(config_of(n, **changes), gpu)[0] for n in (1, 3))
        waits = dict(gpu.waits)
    assert (three - one) / 2 <= MOST_LAUNCHES
    assert not waits


def test_varlen_attention_has_the_gradients_of_the_cpu():
    _, want = launches_and_gradients(config_of(2))
    with pretended_device() as gpu:
        _, got = launches_and_gradients(config_of(2), gpu)
        assert gpu.launches["varlen_attention"] == gpu.launches["varlen_attention_backward"] == 2
    torch.testing.assert_close(got.host, want)
