"""Which queries see which slots; that both ways agree is test_cpu_model.py's."""

import pytest
import torch

from store_engine.config import ModelConfig
from store_engine.inference.cache_attention import (
    PrefillAttention,
    TreeAttention,
    TritonTreeAttention,
)
from store_engine.inference.kv_cache import KVCache
from store_engine.model.attention import PackedSequences

CONFIG = ModelConfig(
    hidden_size=32, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8, intermediate_size=48
)
LENGTHS = torch.tensor([1, 6, 3])


def started(lengths=LENGTHS, num_tree_slots=0):
    cache = KVCache(CONFIG, torch.device("cpu"), torch.float32)
    cache.start(lengths, num_tree_slots)
    cache.layers.normal_()
    return cache


def projections(num_tokens):
    shapes = (num_tokens, 4, 8), (num_tokens, 2, 8), (num_tokens, 2, 8)
    return tuple(torch.randn(shape) for shape in shapes)


def oracle(q, keys, values):
    """One query (num_heads, head_dim) over keys (num_slots, num_kv_heads, head_dim)."""
    keys, values = (x.repeat_interleave(2, dim=1) for x in (keys, values))
    probs = (torch.einsum("hd,shd->hs", q, keys) / 8**0.5).softmax(-1)
    return torch.einsum("hs,shd->hd", probs, values)


@pytest.mark.parametrize("num_known", [[0, 0, 0], [0, 4, 2], [0, 5, 2], [0, 5, 0]])
@pytest.mark.parametrize("layer_id", [0, 1])
def test_prefill(num_known, layer_id):
    """The first layer asks for every new token, the last one for each context's last."""
    cache, num_known = started(), torch.tensor(num_known)
    num_new = LENGTHS - num_known
    attend = PrefillAttention(cache, PackedSequences.from_lengths(num_new), num_known)
    q, k, v = projections(int(num_new.sum()))
    ends = num_new.cumsum(0)
    got = attend(layer_id, q if layer_id == 0 else q[ends - 1], k, v)
    token, want = 0, []
    for request, (known, length) in enumerate(zip(num_known, LENGTHS, strict=True)):
        keys, values = cache.layers[layer_id, :, request]
        for slot in range(known, length):
            assert torch.equal(keys[slot], k[token])
            assert torch.equal(values[slot], v[token])
            if layer_id == 0 or slot + 1 == length:
                want.append(oracle(q[token], keys[: slot + 1], values[: slot + 1]))
            token += 1
    torch.testing.assert_close(got, torch.stack(want))


def test_contexts_of_one_token_each_are_no_sign_of_the_last_layer():
    """As many queries as contexts: what is asked for follows from the layer, not from a length."""
    cache = started(torch.tensor([1, 1]))
    attend = PrefillAttention(
        cache, PackedSequences.from_lengths(torch.tensor([1, 1])), LENGTHS[:2] * 0
    )
    q, k, v = projections(2)
    for layer_id in (0, 1):
        want = v.repeat_interleave(2, dim=1)  # a token alone sees itself
        torch.testing.assert_close(attend(layer_id, q, k, v), want)


@pytest.mark.parametrize("kind", [TreeAttention, TritonTreeAttention])
def test_tree(kind):
    cache = started(num_tree_slots=7)
    first = torch.arange(3).expand(3, -1)[:, :, None]
    second = torch.tensor([[0, 3], [2, 4], [0, 5], [1, 6]]).expand(3, -1, -1)
    for ancestors, begin in ((first, 0), (second, 3)):
        width = ancestors.shape[1]
        q, k, v = projections(3 * width)
        got = kind(cache, ancestors, begin)(1, q, k, v)
        for request in range(3):
            keys, values = cache.layers[1, :, request]
            context = list(range(int(LENGTHS[request])))
            for beam in range(width):
                token = request * width + beam
                assert torch.equal(keys[6 + begin + beam], k[token])
                slots = [*context, *(6 + ancestors[request, beam]).tolist()]
                want = oracle(q[token], keys[slots], values[slots])
                torch.testing.assert_close(got[token], want)
