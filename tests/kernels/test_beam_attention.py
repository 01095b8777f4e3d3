import pytest
import torch
import torch.nn.functional as F

from store_engine.kernels._dispatch import device_guard
from store_engine.kernels.beam_attention import beam_attention, beam_attention_ref

BACKENDS = ["torch", "triton"]
# batch, width, heads, key heads, head dim, longest context, slots of the tree
SHAPES = [
    (1, 1, 1, 1, 1, 1, 1),
    (2, 4, 4, 2, 16, 64, 8),
    (3, 7, 9, 3, 63, 70, 21),
    (2, 63, 2, 1, 32, 100, 0),
    (1, 2, 1, 1, 8, 1000, 65),
    (0, 2, 1, 1, 8, 4, 4),
]


def make(shape, dtype, device):
    """Unequal contexts, ancestors at random; slots that nobody sees hold large numbers."""
    batch, width, num_heads, num_kv_heads, head_dim, max_context, num_tree = shape
    q = torch.randn(batch, width, num_heads, head_dim, dtype=dtype, device=device)
    kv = torch.randn(2, batch, max_context + num_tree, num_kv_heads, head_dim, device=device)
    lengths = torch.randint(1, max_context + 1, (batch,), device=device)
    is_unseen = torch.arange(max_context + num_tree, device=device) >= lengths[:, None]
    is_unseen[:, max_context:] = False
    kv[:, is_unseen] = 1e4
    tree_mask = torch.rand(batch, width, num_tree, device=device) < 0.3
    return q, *kv.to(dtype), lengths, tree_mask


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_matches_ref(shape, backend, dtype, device):
    if backend == "triton" and dtype is torch.bfloat16 and device == "cpu":
        pytest.skip("the Triton interpreter truncates to bfloat16 instead of rounding")
    q, keys, values, *rest = make(shape, dtype, device)
    want = beam_attention_ref(q.float(), keys.float(), values.float(), *rest)
    got = beam_attention(q, keys, values, *rest, backend=backend)
    assert got.dtype == dtype
    atol = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}[dtype]
    torch.testing.assert_close(got.float(), want, atol=atol, rtol=0)


def test_ref_is_causal_attention_of_each_beam_alone():
    """A beam's keys laid out as one sequence give the same."""
    q, keys, values, lengths, tree_mask = make((2, 3, 4, 2, 8, 10, 6), torch.float32, "cpu")
    got = beam_attention_ref(q, keys, values, lengths, tree_mask)
    for b in range(2):
        for w in range(3):
            slots = [*range(int(lengths[b])), *(10 + tree_mask[b, w].nonzero()[:, 0]).tolist()]
            k, v = (x[b, slots].repeat_interleave(2, 1).transpose(0, 1) for x in (keys, values))
            want = F.scaled_dot_product_attention(q[b, w][:, None], k, v)[:, 0]
            torch.testing.assert_close(got[b, w], want)


@pytest.mark.parametrize("backend", BACKENDS)
def test_strided_cache(backend, device):
    q, keys, values, *rest = make((2, 3, 4, 2, 16, 10, 6), torch.float32, device)
    layers = torch.stack([keys, values], 1).contiguous()  # a view into a larger cache
    views = layers[:, 0], layers[:, 1]
    got = beam_attention(q, *views, *rest, backend=backend)
    torch.testing.assert_close(got, beam_attention_ref(q, keys, values, *rest))


def test_launches_on_the_device_of_its_tensors(device, monkeypatch):
    """Triton launches on the current device, which may be another one."""
    guarded = []

    def guard(x):
        guarded.append(x)
        return device_guard(x)

    monkeypatch.setattr("store_engine.kernels.triton.beam_attention.device_guard", guard)
    q, *rest = make((1, 1, 1, 1, 1, 1, 1), torch.float32, device)
    beam_attention(q, *rest, backend="triton")
    assert guarded == [q]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("batch", "width"), [(0, 3), (2, 0)])
def test_no_queries(backend, batch, width, device):
    args = make((batch, width, 4, 2, 8, 5, 3), torch.float32, device)
    assert beam_attention(*args, backend=backend).shape == (batch, width, 4, 8)


@pytest.mark.parametrize("backend", BACKENDS)
def test_beam_that_sees_nothing_gets_zeros(backend, device):
    q, keys, values, lengths, tree_mask = make((2, 3, 2, 1, 8, 10, 6), torch.float32, device)
    lengths[1], tree_mask[1, 2] = 0, False
    got = beam_attention(q, keys, values, lengths, tree_mask, backend=backend)
    assert got[1, 2].eq(0).all()
    assert got[0].ne(0).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"values": torch.zeros(2, 9, 2, 4)}, r"got \(2, 8, 2, 4\) and \(2, 9, 2, 4\)"),
        ({"q": torch.zeros(2, 3, 5, 4)}, "num_heads 5 must be a multiple of num_kv_heads 2"),
        ({"tree_mask": torch.ones(2, 4, 6).bool()}, "tree_mask must be"),
        ({"context_lengths": torch.ones(3)}, r"context_lengths must be \(2,\)"),
    ],
    ids=["values", "heads", "mask", "lengths"],
)
def test_rejects(change, message):
    inputs = {
        "q": torch.zeros(2, 3, 4, 4),
        "keys": torch.zeros(2, 8, 2, 4),
        "values": torch.zeros(2, 8, 2, 4),
        "context_lengths": torch.ones(2).int(),
        "tree_mask": torch.ones(2, 3, 6).bool(),
    }
    with pytest.raises(ValueError, match=message):
        beam_attention(**(inputs | change))
