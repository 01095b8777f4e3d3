import inspect

import pytest
import torch
import torch.nn.functional as F

from store_engine.model import attention
from store_engine.model.attention import PackedSequences, pad_tokens


def packed(lengths, heads=4, kv_heads=2, head_dim=8):
    total = sum(lengths)
    cu_seqlens = torch.tensor([0, *lengths]).cumsum(0)
    q = torch.randn(total, heads, head_dim, requires_grad=True)
    k, v = (torch.randn(total, kv_heads, head_dim, requires_grad=True) for _ in range(2))
    return cu_seqlens, q, k, v


@pytest.mark.parametrize(
    "lengths",
    [[1], [5], [4, 4, 4], [63, 1], [64, 63, 60, 9, 9, 8, 1, 1], [1, 50, 2, 33]],
    ids=["one token", "one", "equal", "very unequal", "sorted", "unsorted"],
)
def test_each_sequence_attends_to_itself_alone(lengths):
    cu_seqlens, q, k, v = packed(lengths)
    got = PackedSequences(cu_seqlens)(0, q, k, v)

    begin = 0
    for length in lengths:
        own = [x[begin : begin + length].transpose(0, 1)[None] for x in (q, k, v)]
        want = F.scaled_dot_product_attention(*own, is_causal=True, enable_gqa=True)
        torch.testing.assert_close(got[begin : begin + length], want[0].transpose(0, 1))
        begin += length

    gradients = torch.autograd.grad(got.square().sum(), [q, k, v])
    assert all(g.isfinite().all() for g in gradients)


def test_positions_restart():
    assert PackedSequences(torch.tensor([0, 3, 5])).positions.tolist() == [0, 1, 2, 0, 1]


def test_sorted_sequences_are_padded_little():
    cu_seqlens = torch.tensor([0, *[200] * 20, *[20] * 30]).cumsum(0)
    assert len(PackedSequences(cu_seqlens)._groups) == 2


@pytest.mark.parametrize(
    "cu_seqlens", [[1, 3], [0], [0, 3, 2], [0, 2, 2]], ids=["begin", "none", "descends", "empty"]
)
def test_rejects(cu_seqlens):
    with pytest.raises(ValueError, match="cu_seqlens must"):
        PackedSequences(torch.tensor(cu_seqlens))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("lengths", [[40, 37, 3], [600, 2]], ids=["short", "longer than products"])
def test_gradients_equal_those_of_sdpa(lengths, dtype):
    cu_seqlens, *qkv = packed(lengths)
    qkv = [x.to(dtype) for x in qkv]
    dout = torch.randn_like(qkv[0])
    got = torch.autograd.grad(PackedSequences(cu_seqlens)(0, *qkv), qkv, dout)
    want = []
    for begin, end in zip(cu_seqlens[:-1].tolist(), cu_seqlens[1:].tolist(), strict=True):
        own = [x[begin:end].float().transpose(0, 1)[None] for x in qkv]
        out = F.scaled_dot_product_attention(*own, is_causal=True, enable_gqa=True)
        want.append(torch.autograd.grad(out[0].transpose(0, 1), qkv, dout[begin:end].float()))
    tolerance = 1e-5 if dtype is torch.float32 else 2e-2
    for mine, theirs in zip(got, (sum(parts) for parts in zip(*want, strict=True)), strict=True):
        torch.testing.assert_close(mine, theirs, atol=tolerance, rtol=tolerance)


class Kernel:
    """varlen_attn of another version of PyTorch, as its signature shows it; notes what it got."""

    def __init__(self, **options):
        parameters = [*["q", "k", "v", "cu_seq_q", "cu_seq_k", "max_q", "max_k"], *options]
        kinds = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in parameters]
        self.__signature__ = inspect.Signature(kinds)

    def __call__(self, q, k, v, *rest, **options):
        self.num_kv_heads, self.options = k.shape[1], options
        return q


@pytest.mark.parametrize(
    ("kernel", "options", "num_kv_heads"),
    [
        (Kernel(is_causal=False), {"is_causal": True}, 4),
        (Kernel(window_size=(-1, -1)), {"window_size": (-1, 0)}, 4),
        (
            Kernel(window_size=(-1, -1), enable_gqa=False),
            {"window_size": (-1, 0), "enable_gqa": True},
            2,
        ),
    ],
    ids=["2.10", "2.11", "2.13"],
)
def test_varlen_attention_is_told_of_causality(kernel, options, num_kv_heads):
    cu_seqlens, q, k, v = packed([3, 2])
    attention._of_torch(kernel)(q, k, v, cu_seqlens, 128)
    assert (kernel.options, kernel.num_kv_heads) == (options, num_kv_heads)


def test_the_installed_varlen_attention_takes_what_it_is_given():
    varlen = pytest.importorskip("torch.nn.attention.varlen")
    cu_seqlens, *qkv = packed([3, 2])
    with torch.device("meta"):
        qkv = [x.to("meta", torch.bfloat16) for x in qkv]
        bounds = cu_seqlens.int().to("meta")
        out = attention._of_torch(varlen.varlen_attn)(*qkv, bounds, 128)
    assert out.shape == qkv[0].shape


def test_bounds_and_lengths_for_a_varlen_kernel_have_few_shapes():
    short, long = (PackedSequences(packed(lengths)[0]) for lengths in ([3, 2], [5] * 63))
    assert short.bounds.shape == long.bounds.shape == (65,)
    assert short._longest == long._longest == 128
    assert short.bounds.unique().tolist() == [0, 3, 5]


@pytest.mark.parametrize("multiple", [1, 5, 8, 64])
def test_padding_is_a_sequence_of_its_own(multiple):
    cu_seqlens, q, k, v = packed([3, 2])
    tokens, sequences = pad_tokens(torch.arange(1, 6), PackedSequences(cu_seqlens), multiple)
    num_tokens = -(-5 // multiple) * multiple
    assert tokens.tolist() == [1, 2, 3, 4, 5, *[0] * (num_tokens - 5)]
    assert sequences.positions.tolist() == [0, 1, 2, 0, 1, *range(num_tokens - 5)]
    more = [torch.cat([x, x.new_ones(num_tokens - 5, *x.shape[1:])]) for x in (q, k, v)]
    torch.testing.assert_close(sequences(0, *more)[:5], PackedSequences(cu_seqlens)(0, q, k, v))
