"""The fused layer ops against the plain formulas, outputs and gradients."""

import pytest
import torch
import torch.nn.functional as F

from store_engine.model import layer_ops
from store_engine.model.layer_ops import RMSNorm, rotate, swiglu
from store_engine.testing import assert_as_accurate

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SHAPES = [(1, 1), (7, 63), (64, 64), (3, 5, 32), (0, 8)]


def norm(x, weight):
    return layer_ops._RMSNorm.apply(x, weight, 1e-3)


def norm_ref(x, weight):
    y = x.float() * (x.float().square().mean(-1, keepdim=True) + 1e-3).rsqrt()
    return (y * weight.float()).to(x.dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("block", [1 << 20, 64], ids=["one block", "many"])
def test_rms_norm(shape, dtype, block, monkeypatch):
    monkeypatch.setattr(layer_ops, "_BLOCK", block)
    inputs = [torch.randn(shape).to(dtype), torch.rand(shape[-1]).to(dtype)]
    assert_as_accurate(norm, norm_ref, inputs, torch.randn(shape))


def test_rms_norm_is_that_of_torch():
    x = torch.randn(6, 16)
    ours, theirs = RMSNorm(16, eps=1e-5), torch.nn.RMSNorm(16, eps=1e-5)
    torch.nn.init.uniform_(ours.weight)
    theirs.load_state_dict(ours.state_dict())
    torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(1, 2), (7, 126), (3, 5, 64), (0, 8)], ids=str)
def test_swiglu(shape, dtype):
    def ref(x):
        gate, up = x.chunk(2, -1)
        return F.silu(gate) * up

    half = (*shape[:-1], shape[-1] // 2)
    assert_as_accurate(swiglu, ref, [torch.randn(shape).to(dtype)], torch.randn(half))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(1, 1, 2), (9, 3, 64), (0, 2, 8)], ids=str)
def test_rotate(shape, dtype):
    angles = torch.randn(shape[0], 1, shape[-1] // 2)
    turns = torch.polar(torch.ones_like(angles), angles)

    def ref(x):
        low, high = x.float().chunk(2, -1)
        turned = torch.complex(low, high) * turns
        return torch.cat([turned.real, turned.imag], -1).to(x.dtype)

    def op(x):
        return rotate(x, angles.cos().to(x.dtype), angles.sin().to(x.dtype))

    # a slice of a wider matrix, as q and k come out of one product
    wide = torch.randn(shape[0], shape[1] + 2, shape[2]).to(dtype)
    assert_as_accurate(
        lambda x: op(x[:, 1:-1]), lambda x: ref(x[:, 1:-1]), [wide], torch.randn(shape)
    )


def test_says_once_what_runs(capsys):
    layer_ops._liger.cache_clear()
    layer_ops._liger()
    layer_ops._liger()
    assert capsys.readouterr().out.count("layer ops:") == 1
