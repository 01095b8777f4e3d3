import pytest
import torch

from store_engine.kernels.beam_attention import beam_attention_ref
from store_engine.kernels.tree_attention import tree_attention, tree_attention_ref
from store_engine.kernels.triton import tree_attention as triton_path

BACKENDS = ["torch", "triton"]
# batch, width, heads, key heads, head dim, slots of the context, slots of the tree, depth
SHAPES = [
    (1, 1, 1, 1, 1, 1, 1, 1),
    (2, 4, 4, 2, 16, 64, 8, 2),
    (2, 7, 9, 3, 63, 150, 21, 3),
    (2, 1, 2, 1, 32, 100, 0, 0),
    (1, 20, 3, 1, 8, 300, 65, 4),
    (1, 3, 2, 2, 8, 0, 5, 2),
    (0, 2, 1, 1, 8, 4, 4, 1),
]


def make(shape, dtype=torch.float32, device="cpu"):
    """Unequal contexts, ancestors at random, some of them none."""
    batch, width, num_heads, num_kv_heads, head_dim, num_context, num_tree, depth = shape
    q = torch.randn(batch, width, num_heads, head_dim, device=device).to(dtype)
    kv = torch.randn(2, batch, num_context + num_tree, num_kv_heads, head_dim, device=device)
    lengths = torch.randint(0, num_context + 1, (batch,), device=device).int()
    order = torch.rand(batch, width, num_tree, device=device).argsort(2).int()
    ancestors = order[:, :, :depth].contiguous()
    ancestors[torch.rand(ancestors.shape, device=device) < 0.2] = -1
    return q, *kv.to(dtype), lengths, ancestors, num_context


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("backend", BACKENDS)
def test_matches_ref(shape, dtype, backend, device):
    q, keys, values, *rest = make(shape, dtype, device)
    want = tree_attention_ref(q.float(), keys.float(), values.float(), *rest)
    got = tree_attention(q, keys, values, *rest, backend=backend)
    assert got.dtype == dtype
    atol = {torch.float32: 1e-5, torch.float16: 2e-3}[dtype]
    torch.testing.assert_close(got.float(), want, atol=atol, rtol=0)


def test_ref_is_beam_attention_with_the_ancestors_mask():
    q, keys, values, lengths, ancestors, begin = make((2, 5, 4, 2, 8, 10, 12, 3))
    mask = torch.zeros(2, 5, 12, dtype=torch.bool)
    for b, w, d in (ancestors >= 0).nonzero().tolist():
        mask[b, w, ancestors[b, w, d]] = True
    want = beam_attention_ref(q, keys, values, lengths, mask)
    got = tree_attention_ref(q, keys, values, lengths, ancestors, begin)
    assert torch.equal(got, want)


def test_any_number_of_splits_gives_the_same(device, monkeypatch):
    args = make((2, 3, 4, 2, 16, 200, 9, 3), device=device)
    want = tree_attention_ref(*args)
    for num_programs in (1, 8, 100):
        monkeypatch.setattr(triton_path, "MIN_PROGRAMS", num_programs)
        torch.testing.assert_close(tree_attention(*args, backend="triton"), want)


@pytest.mark.parametrize(
    ("num_programs", "num_slots", "expected"),
    [(1, 10_000, 132), (3, 10_000, 44), (3, 100, 2), (500, 10_000, 1), (3, 0, 1)],
)
def test_splits_fill_a_gpu_where_the_context_is_long_enough(num_programs, num_slots, expected):
    assert triton_path._num_splits(num_programs, num_slots, 64) == expected


def test_slots_past_the_length_are_not_read(device):
    q, keys, values, lengths, ancestors, begin = make((2, 3, 2, 1, 8, 70, 6, 2), device=device)
    lengths[:] = 5
    want = tree_attention(q, keys, values, lengths, ancestors, begin, backend="triton")
    keys[:, 5:begin], values[:, 5:begin] = float("nan"), float("nan")
    got = tree_attention(q, keys, values, lengths, ancestors, begin, backend="triton")
    assert torch.equal(got, want)


@pytest.mark.parametrize("backend", BACKENDS)
def test_strided_cache(backend, device):
    q, keys, values, *rest = make((2, 3, 4, 2, 16, 10, 6, 2), device=device)
    layers = torch.stack([keys, values], 1).contiguous()  # a view into a larger cache
    got = tree_attention(q, layers[:, 0], layers[:, 1], *rest, backend=backend)
    torch.testing.assert_close(got, tree_attention_ref(q, keys, values, *rest))


@pytest.mark.parametrize("backend", BACKENDS)
def test_beam_that_sees_nothing_gets_zeros(backend, device):
    args = make((2, 3, 2, 1, 8, 70, 6, 2), device=device)
    args[3][1], args[4][1, 2] = 0, -1
    args[4][0, :, 0] = 1
    got = tree_attention(*args, backend=backend)
    assert got[1, 2].eq(0).all()
    assert got[0].ne(0).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_batch_equals_one_by_one(backend, device):
    args = make((3, 4, 4, 2, 16, 80, 8, 3), device=device)
    together = tree_attention(*args, backend=backend)
    for b in range(3):
        one = [x[b : b + 1] for x in args[:-1]]
        alone = tree_attention(*one, args[-1], backend=backend)
        torch.testing.assert_close(together[b : b + 1], alone)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"q": torch.zeros(2, 3, 5, 4)},
            ValueError,
            "num_heads 5 must be a multiple",
        ),
        ({"values": torch.zeros(2, 9, 2, 4)}, ValueError, r"values must be \(2, 8, 2, 4\)"),
        ({"keys": torch.zeros(2, 8, 2, 8)[..., :4]}, ValueError, "contiguous heads"),
        ({"ancestors": torch.ones(2, 4, 2).int()}, ValueError, r"ancestors must be \(2, 3, 2\)"),
        ({"ancestors": torch.ones(2, 3, 2)}, TypeError, "ancestors must be torch.int32"),
        ({"context_lengths": torch.ones(3).int()}, ValueError, r"context_lengths must be \(2,\)"),
        ({"tree_begin": 9}, ValueError, "tree_begin must be between 0 and 8, got 9"),
        ({"q": torch.zeros(2, 4)}, ValueError, "q must be"),
    ],
    ids=["heads", "values", "strides", "ancestors", "dtype", "lengths", "begin", "q"],
)
def test_rejects(change, error, message):
    inputs = {
        "q": torch.zeros(2, 3, 4, 4),
        "keys": torch.zeros(2, 8, 2, 4),
        "values": torch.zeros(2, 8, 2, 4),
        "context_lengths": torch.ones(2).int(),
        "ancestors": torch.ones(2, 3, 2).int(),
        "tree_begin": 2,
    }
    with pytest.raises(error, match=message):
        tree_attention(**(inputs | change))
