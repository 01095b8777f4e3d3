import inspect

import pytest
import torch

from store_engine.kernels.qk_rope_cache import qk_rope_cache, qk_rope_cache_ref
from store_engine.model.layer_ops import RMSNorm, rotate
from store_engine.testing import ATOL

BACKENDS = ["torch", "triton"]
# rows, heads, key heads, head dim, slots
SHAPES = [(1, 1, 1, 2, 1), (5, 4, 2, 16, 9), (4, 9, 3, 24, 30), (2, 3, 1, 126, 4), (0, 2, 1, 8, 3)]
NAMES = list(inspect.signature(qk_rope_cache_ref).parameters)
NORMS = [(True, True), (False, False), (True, False)]


def make(shape, norms=(True, True), dtype=torch.float32, device="cpu"):
    """Arguments of the op; every third row is not written."""
    num_rows, num_heads, num_kv_heads, head_dim, num_slots = shape
    qkv = torch.randn(num_rows, (num_heads + 2 * num_kv_heads) * head_dim, device=device)
    weights = [torch.rand(head_dim, device=device).to(dtype) if n else None for n in norms]
    angles = torch.randn(num_rows + 3, head_dim // 2, device=device)
    positions = torch.randint(0, num_rows + 3, (num_rows,), device=device).int()
    slots = torch.randperm(num_slots, device=device)[:num_rows].int()
    slots[2::3] = -1
    keys, values = torch.randn(2, num_slots, num_kv_heads, head_dim, device=device).to(dtype)
    rope = angles.cos(), angles.sin(), positions
    return qkv.to(dtype), *weights, *rope, slots, keys, values, 1e-5, num_heads


def run(op, args, **options):
    """What the op returns, and the caches behind it."""
    *rest, keys, values, eps, num_heads = args
    keys, values = keys.clone(), values.clone()
    return op(*rest, keys, values, eps, num_heads, **options), keys, values


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("norms", NORMS, ids=["both", "none", "q"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("backend", BACKENDS)
def test_matches_ref(shape, norms, dtype, backend, device):
    args = make(shape, norms, dtype, device)
    wants = run(qk_rope_cache_ref, args)
    gots = run(qk_rope_cache, args, backend=backend)
    for got, want in zip(gots, wants, strict=True):
        assert got.dtype == dtype
        torch.testing.assert_close(got, want, atol=ATOL[dtype], rtol=1e-3)
    assert torch.equal(gots[2], wants[2])  # values are copied as they are


def test_ref_is_the_models_norm_and_rope():
    args = make((6, 4, 2, 8, 10))
    qkv, q_weight, k_weight, cosine, sine, positions, slots, *_ = args
    cosine, sine = cosine[positions], sine[positions]
    q, k, v = qkv.unflatten(1, (8, 8)).split((4, 2, 2), dim=1)
    rope = cosine[:, None], sine[:, None]
    norms = [RMSNorm(8, eps=1e-5), RMSNorm(8, eps=1e-5)]
    for norm, weight in zip(norms, (q_weight, k_weight), strict=True):
        norm.weight.data.copy_(weight)
    got, keys, values = run(qk_rope_cache_ref, args)
    torch.testing.assert_close(got, rotate(norms[0](q), *rope))
    is_written = slots >= 0
    at = slots[is_written].long()
    torch.testing.assert_close(keys[at], rotate(norms[1](k), *rope)[is_written])
    assert torch.equal(values[at], v[is_written])
    others = torch.ones(10, dtype=torch.bool).index_fill(0, at, False)
    assert torch.equal(keys[others], args[7][others])
    assert torch.equal(values[others], args[8][others])


@pytest.mark.parametrize("backend", BACKENDS)
def test_values_are_not_touched_by_the_angles(backend, device):
    args = make((1, 1, 1, 4, 1), device=device)
    args[0][0, -1] = float("inf")
    _, _, values = run(qk_rope_cache, args, backend=backend)
    assert torch.equal(values[0, 0], args[0][0, -4:])


@pytest.mark.parametrize(
    ("name", "change", "error", "message"),
    [
        ("qkv", lambda x: x[:, 1:], ValueError, r"qkv must be \(5, 128\), got \(5, 127\)"),
        ("k_weight", lambda x: x[1:], ValueError, r"k_weight must be \(16,\), got \(15,\)"),
        ("sine", lambda x: x[:, 1:], ValueError, r"sine must be \(8, 8\)"),
        ("positions", lambda x: x[1:], ValueError, r"positions must be \(5,\)"),
        ("slots", lambda x: x.long(), TypeError, "slots must be torch.int32"),
        ("keys", lambda x: x[:, :, :15], ValueError, "even head_dim"),
        ("values", lambda x: x[1:], ValueError, r"values must be \(9, 2, 16\)"),
        ("values", lambda x: x.half(), TypeError, "values must be torch.float32"),
    ],
    ids=["qkv", "weight", "sine", "positions", "slots", "keys", "values", "dtype"],
)
def test_rejects(name, change, error, message):
    args = dict(zip(NAMES, make((5, 4, 2, 16, 9)), strict=True))
    with pytest.raises(error, match=message):
        qk_rope_cache(**(args | {name: change(args[name])}))
