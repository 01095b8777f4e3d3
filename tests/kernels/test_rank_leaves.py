import pytest
import torch
import torch.nn.functional as F
from beam_steps import INF, beams_of

from store_engine.kernels.rank_leaves import RankedItems, rank_leaves
from store_engine.kernels.trie_select import Filter
from store_engine.kernels.trie_topk import pack_items, word_ranks
from store_engine.kernels.triton import rank_leaves as triton_path

BACKENDS = ["torch", "triton"]
# batch, width, leaves, largest leaf, size
CASES = [
    (1, 1, 1, 1, 1),
    (3, 5, 9, 1, 5),
    (2, 6, 8, 4, 4),
    (2, 3, 40, 5, 20),
    (3, 140, 150, 2, 130),
]


def make(case, device):
    """Beams in order, some of them none; leaves of unequal size; two sets and exclusions."""
    batch, width, num_leaves, largest, _ = case
    num_below = torch.randint(1, largest + 1, (num_leaves,), device=device)
    leaf_begin = F.pad(num_below.cumsum(0), (1, 0))
    num_items = int(leaf_begin[-1])
    nodes = torch.stack([torch.randperm(num_leaves, device=device)[:width] for _ in range(batch)])
    num_valid = torch.randint(0, width + 1, (batch,), device=device)
    is_none = torch.arange(width, device=device) >= num_valid[:, None]
    scores = -torch.rand(batch, width, device=device).sort(1)[0]
    beams = beams_of(scores.masked_fill(is_none, -INF), nodes.masked_fill(is_none, -1), num_valid)
    beams.is_bad[-1] = True
    sets, set_index = torch.rand(2, num_items) < 0.6, torch.arange(batch) % 3 - 1
    is_allowed = sets[set_index.clamp(min=0)] | (set_index < 0)[:, None]
    excluded = torch.full((batch, 5), num_items)
    for b in range(batch):
        places = is_allowed[b].nonzero()[:, 0]
        places = places[torch.randperm(len(places))[:3]].sort()[0]
        excluded[b, : len(places)] = places
        is_allowed[b, places] = False
    words = pack_items(sets)
    parts = words, word_ranks(words), set_index.int(), excluded.int(), leaf_begin.int()
    return beams, leaf_begin, Filter(*(x.to(device) for x in parts)), is_allowed


def brute_force(beams, leaf_begin, is_allowed, request, size):
    """Pairs of place and score, item by item."""
    found, begins = [], leaf_begin.tolist()
    leaves, scores = beams.nodes[request].tolist(), beams.scores[request].tolist()
    for leaf, score in zip(leaves, scores, strict=True):
        places = range(begins[leaf], begins[leaf + 1]) if leaf >= 0 else ()
        found += [(place, score) for place in places if is_allowed[request, place]]
    return (found + [(-1, -INF)] * size)[:size]


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("is_filtered", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
def test_equals_brute_force(case, is_filtered, backend, device):
    size = case[4]
    beams, leaf_begin, given, is_allowed = make(case, device)
    if not is_filtered:
        given, is_allowed = None, torch.ones_like(is_allowed)
    memory = rank_leaves(beams, leaf_begin, size, case[3], filter=given, backend=backend)
    assert memory.shape == (case[0], 2 * size + 1)
    got = RankedItems.of(memory)
    for b in range(case[0]):
        want = brute_force(beams, leaf_begin, is_allowed, b, size)
        assert list(zip(got.places[b].tolist(), got.scores[b].tolist(), strict=True)) == want
    assert got.is_bad.tolist() == [0] * (case[0] - 1) + [1]


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_is_read_behind_the_last_bit(backend, device):
    """A set's words may end with the bit behind the last item, and the last leaf be a small one."""
    leaf_begin = torch.tensor([0, 30, 31], dtype=torch.int32, device=device)
    nodes = torch.tensor([[1, 0]], device=device)
    beams = beams_of(torch.tensor([[-1.0, -2.0]], device=device), nodes, torch.tensor([2]))
    words = pack_items(torch.ones(1, 31, dtype=torch.bool, device=device))
    assert words.shape == (1, 1)
    zero = torch.zeros(1, dtype=torch.int32, device=device)
    given = Filter(words, word_ranks(words), zero, zero.view(1, 1) + 31, leaf_begin)
    memory = rank_leaves(beams, leaf_begin, 3, 30, filter=given, backend=backend)
    assert RankedItems.of(memory).places.tolist() == [[30, 0, 1]]


def test_tiles_change_nothing(device, monkeypatch):
    beams, leaf_begin, given, _ = make(CASES[3], device)
    want = rank_leaves(beams, leaf_begin, 20, 5, filter=given, backend="torch")
    monkeypatch.setattr(triton_path, "_launch_config", lambda: {"BLOCK": 2})
    assert torch.equal(rank_leaves(beams, leaf_begin, 20, 5, filter=given, backend="triton"), want)


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_requests(backend, device):
    beams, leaf_begin, *_ = make(CASES[1], device)
    nothing = type(beams)(*(x[:0] for x in beams))
    assert rank_leaves(nothing, leaf_begin, 4, 1, backend=backend).shape == (0, 9)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"size": 0}, ValueError, "size and largest must be at least 1, got 0 and 1"),
        ({"leaf_begin": torch.zeros(0)}, ValueError, r"leaf_begin \(num_leaves \+ 1,\)"),
        ({"leaf_begin": torch.zeros(3)}, TypeError, "leaf_begin must be torch.int32"),
    ],
    ids=["size", "empty", "dtype"],
)
def test_rejects(change, error, message, device):
    beams, leaf_begin, *_ = make(CASES[1], device)
    options = {"leaf_begin": leaf_begin, "size": 3, "largest": 1} | change
    with pytest.raises(error, match=message):
        rank_leaves(beams, **options)
