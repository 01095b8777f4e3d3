import pytest
import torch

from store_engine.kernels.beam_attention import beam_attention_ref
from store_engine.kernels.tree_attention import BeamTree, tree_attention, tree_attention_ref
from store_engine.kernels.triton import tree_attention as triton_path

BACKENDS = ["torch", "triton"]
# batch, width, heads, key heads, head dim, slots of the context, levels before, width of these
SHAPES = [
    (1, 1, 1, 1, 1, 1, 0, 0),
    (2, 4, 4, 2, 16, 64, 1, 4),
    (2, 7, 9, 3, 63, 150, 2, 5),
    (2, 1, 2, 1, 32, 100, 2, 1),
    (1, 20, 3, 1, 8, 300, 3, 20),
    (1, 3, 2, 2, 8, 0, 1, 2),
    (0, 2, 1, 1, 8, 4, 1, 1),
]


def make(shape, dtype=torch.float32, device="cpu"):
    """Unequal contexts; each beam has a parent at random in the level before, some have none."""
    batch, width, num_heads, num_kv_heads, head_dim, num_context, num_levels, wide = shape
    first = num_levels * wide
    num_tree = first + width + 3  # slots of levels to come
    q = torch.randn(batch, width, num_heads, head_dim, device=device).to(dtype)
    kv = torch.randn(2, batch, num_context + num_tree, num_kv_heads, head_dim, device=device)
    lengths = torch.randint(0, num_context + 1, (batch,), device=device).int()
    parents = torch.full((batch, num_tree), -1, device=device)
    for level in range(1, num_levels + 1):
        size = width if level == num_levels else wide
        chosen = torch.randint(0, wide, (batch, size), device=device) + (level - 1) * wide
        chosen[torch.rand(chosen.shape, device=device) < 0.2] = -1
        parents[:, level * wide : level * wide + size] = chosen
    return q, *kv.to(dtype), lengths, BeamTree(parents.int(), first, num_levels + 1)


def seen(tree, width):
    """(batch, width, num_tree) bool, beam by beam."""
    mask = torch.zeros(len(tree.parents), width, tree.parents.shape[1], dtype=torch.bool)
    for request, parents in enumerate(tree.parents.tolist()):
        for beam in range(width):
            slot = tree.first + beam
            while slot >= 0:
                mask[request, beam, slot] = True
                slot = parents[slot]
    return mask


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
    q, keys, values, lengths, tree = make((2, 5, 4, 2, 8, 10, 3, 4))
    want = beam_attention_ref(q, keys, values, lengths, seen(tree, 5))
    assert torch.equal(tree_attention_ref(q, keys, values, lengths, tree), want)


def test_a_tree_may_be_cut_short():
    """Of depth 1 each beam sees itself alone, of depth 0 not even that."""
    q, keys, values, lengths, tree = make((2, 5, 4, 2, 8, 10, 3, 4))
    for depth in (0, 1):
        own = torch.zeros(2, 5, tree.parents.shape[1], dtype=torch.bool)
        own[:, range(5), range(12, 17)] = depth == 1
        want = beam_attention_ref(q, keys, values, lengths, own)
        cut = tree._replace(depth=depth)
        for backend in BACKENDS:
            got = tree_attention(q, keys, values, lengths, cut, backend=backend)
            torch.testing.assert_close(got, want)


def test_any_number_of_splits_gives_the_same(device, monkeypatch):
    args = make((2, 3, 4, 2, 16, 200, 2, 3), device=device)
    want = tree_attention_ref(*args)
    counters = torch.zeros(100, dtype=torch.int32, device=device)
    for num_programs in (1, 8, 100):
        monkeypatch.setattr(triton_path, "MIN_PROGRAMS", num_programs)
        for given in (None, counters, counters):  # the second finds them as the first left them
            got = tree_attention(*args, counters=given, backend="triton")
            torch.testing.assert_close(got, want)
            assert not counters.any()


@pytest.mark.parametrize(
    ("num_programs", "num_slots", "expected"),
    [(1, 10_000, 132), (3, 10_000, 44), (3, 100, 2), (500, 10_000, 1), (3, 0, 1)],
)
def test_splits_fill_a_gpu_where_the_context_is_long_enough(num_programs, num_slots, expected):
    assert triton_path._num_splits(num_programs, num_slots, 64) == expected


def test_slots_past_the_length_are_not_read(device):
    q, keys, values, lengths, tree = make((2, 3, 2, 1, 8, 70, 1, 3), device=device)
    lengths[:] = 5
    want = tree_attention(q, keys, values, lengths, tree, backend="triton")
    keys[:, 5:70], values[:, 5:70] = float("nan"), float("nan")
    got = tree_attention(q, keys, values, lengths, tree, backend="triton")
    assert torch.equal(got, want)


@pytest.mark.parametrize("backend", BACKENDS)
def test_strided_cache(backend, device):
    q, keys, values, *rest = make((2, 3, 4, 2, 16, 10, 1, 3), device=device)
    layers = torch.stack([keys, values], 1).contiguous()  # a view into a larger cache
    got = tree_attention(q, layers[:, 0], layers[:, 1], *rest, backend=backend)
    torch.testing.assert_close(got, tree_attention_ref(q, keys, values, *rest))


@pytest.mark.parametrize("backend", BACKENDS)
def test_beam_that_sees_nothing_gets_zeros(backend, device):
    *args, tree = make((2, 3, 2, 1, 8, 70, 1, 3), device=device)
    args[3][:] = torch.tensor([5, 0])
    got = tree_attention(*args, tree._replace(depth=0), backend=backend)
    assert got[1].eq(0).all()
    assert got[0].ne(0).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_batch_equals_one_by_one(backend, device):
    *args, tree = make((3, 4, 4, 2, 16, 80, 2, 3), device=device)
    together = tree_attention(*args, tree, backend=backend)
    for b in range(3):
        one = [x[b : b + 1] for x in args]
        own = tree._replace(parents=tree.parents[b : b + 1])
        alone = tree_attention(*one, own, backend=backend)
        torch.testing.assert_close(together[b : b + 1], alone)


def tree_of(batch=2, slots=6, dtype=torch.int32, first=3, depth=2):
    return BeamTree(torch.full((batch, slots), -1, dtype=dtype), first, depth)


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
        ({"tree": tree_of(slots=9)}, ValueError, "a tree of 9 slots must be among the 8"),
        ({"tree": tree_of(batch=3)}, ValueError, r"parents must be \(2, 6\)"),
        ({"tree": tree_of(dtype=torch.int64)}, TypeError, "parents must be torch.int32"),
        ({"tree": tree_of(first=4)}, ValueError, "3 queries from slot 4 on"),
        ({"tree": tree_of(depth=-1)}, ValueError, "its depth not below 0, got -1"),
        ({"context_lengths": torch.ones(3).int()}, ValueError, r"context_lengths must be \(2,\)"),
        ({"counters": torch.zeros(9).int()}, ValueError, r"counters must be \(24,\)"),
        ({"q": torch.zeros(2, 4)}, ValueError, "q must be"),
    ],
    ids=[
        *("heads", "values", "strides", "slots", "batch", "dtype", "first", "depth", "lengths"),
        *("counters", "q"),
    ],
)
def test_rejects(change, error, message):
    inputs = {
        "q": torch.zeros(2, 3, 4, 4),
        "keys": torch.zeros(2, 8, 2, 4),
        "values": torch.zeros(2, 8, 2, 4),
        "context_lengths": torch.ones(2).int(),
        "tree": tree_of(),
    }
    with pytest.raises(error, match=message):
        tree_attention(**(inputs | change))
