import pytest
import torch
import torch.nn.functional as F
from beam_steps import INF, beams_of, brute_force, check_a_bad_request, make_beams, make_level

from store_engine.kernels.trie_select import Backpointers, Filter, trie_select, trie_select_ref
from store_engine.kernels.trie_topk import (
    Beams,
    ItemBits,
    Level,
    pack_items,
    root_beams,
    trie_topk_ref,
    word_ranks,
)
from store_engine.kernels.triton import trie_select as triton_path

BACKENDS = ["torch", "triton"]
# batch, beam width, nodes, codebook, width
CASES = [(1, 1, 1, 1, 1), (2, 2, 20, 63, 4), (1, 2, 5, 40, 70), (3, 4, 8, 16, 20)]


def narrow(beams):
    """With int32 in the place of int64."""
    return Beams(*(x.int() if x.dtype == torch.int64 else x for x in beams))


def make_filter(level, batch, device):
    """Two random sets, one request in three without a set, some items excluded: what is alive."""
    num_below = torch.randint(1, 4, (len(level.tokens),))
    item_begin = F.pad(num_below.cumsum(0), (1, 0))
    num_items = int(item_begin[-1])
    sets, set_index = torch.rand(2, num_items) < 0.5, torch.arange(batch) % 3 - 1
    is_allowed = sets[set_index.clamp(min=0)] | (set_index < 0)[:, None]
    excluded = torch.full((batch, 7), num_items)
    for b in range(batch):
        places = is_allowed[b].nonzero()[:, 0]
        places = places[torch.randperm(len(places))[:5]].sort()[0]
        excluded[b, : len(places)] = places
        is_allowed[b, places] = False
    words = pack_items(sets)
    parts = words, word_ranks(words), set_index.int(), excluded.int(), item_begin.int()
    return Filter(*(x.to(device) for x in parts)), is_allowed


def alive_below(is_allowed, item_begin):
    """(batch, num_children) bool, counted item by item."""
    ranges = zip(item_begin[:-1].tolist(), item_begin[1:].tolist(), strict=True)
    return torch.stack([is_allowed[:, begin:end].any(1) for begin, end in ranges], 1)


@pytest.mark.parametrize("case", CASES, ids="beams={0[0]}x{0[1]},nodes={0[2]},k={0[3]}".format)
@pytest.mark.parametrize("normalize", ["codebook", "children"])
@pytest.mark.parametrize("is_filtered", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
def test_equals_brute_force(case, normalize, is_filtered, backend, device):
    batch, beam_width, num_nodes, codebook_size, width = case
    level = make_level(num_nodes, codebook_size, device)
    level = Level(level.child_begin.int(), level.tokens.to(torch.uint16))
    if not len(level.tokens):
        pytest.skip("no child")
    logits, beams = make_beams(batch, beam_width, num_nodes, codebook_size, device)
    given, alive = None, None
    if is_filtered:
        given, is_allowed = make_filter(level, batch, device)
        alive = alive_below(is_allowed, given.item_begin)
    options = {"normalize": normalize, "filter": given, "backend": backend}
    got = trie_select(logits, narrow(beams), level, width, **options)
    for b, rows in enumerate(brute_force(logits, beams, level, width, normalize, alive)):
        n = len(rows)
        assert int(got.num_valid[b]) == n
        assert got.nodes[b, :n].tolist() == [row[1] for row in rows]
        assert got.parents[b, :n].tolist() == [row[2] for row in rows]
        assert got.tokens[b, :n].tolist() == [row[3] for row in rows]
        scores = torch.tensor([-row[0] for row in rows], device=device)
        torch.testing.assert_close(got.scores[b, :n], scores)
        assert got.scores[b, n:].eq(-INF).all()
        assert all(x[b, n:].eq(-1).all() for x in (got.nodes, got.parents, got.tokens))


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("backend", BACKENDS)
def test_equals_trie_topk(dtype, backend, device):
    """In every field; like scores are many, and the integers are those that came."""
    level = make_level(30, 40, device)
    logits, beams = make_beams(3, 6, 30, 40, device)
    logits, beams = logits.round(), beams._replace(scores=beams.scores.round())
    want = trie_topk_ref(logits, beams, level, 25)
    given = narrow(beams) if dtype == torch.int32 else beams
    got = trie_select(logits, given, level, 25, backend=backend)
    assert {x.dtype for x in (got.parents, got.tokens, got.nodes, got.num_valid)} == {dtype}
    torch.testing.assert_close(got.scores, want.scores)
    for name, x, y in zip(Beams._fields[1:], got[1:], want[1:], strict=True):
        assert torch.equal(x, y.to(x.dtype)), name


@pytest.mark.parametrize("backend", BACKENDS)
def test_writes_backpointers(backend, device):
    level = make_level(30, 40, device)
    logits, beams = make_beams(3, 6, 30, 40, device)
    slots = torch.full((3, 20), 99, dtype=torch.int32, device=device)
    back = Backpointers(slots, begin=7, parent_begin=1)
    got = trie_select(logits, beams, level, 11, back=back, backend=backend)
    want = (got.parents + 1).masked_fill(got.parents < 0, -1)
    assert torch.equal(slots[:, 7:18], want.int())
    assert slots[:, :7].eq(99).all()
    assert slots[:, 18:].eq(99).all()
    with pytest.raises(ValueError, match=r"backpointers must be \(3, 21\)"):
        trie_select(logits, beams, level, 14, back=back, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_of_logits_may_be_shared_or_stand_among_others(backend, device):
    level = make_level(30, 40, device)
    logits, beams = make_beams(3, 6, 30, 40, device)
    wide = torch.cat([logits, torch.full_like(logits, torch.nan)], 1)[:, :6]
    shared = logits[:, :1].expand(-1, 6, -1)
    for given in (wide, shared):
        want = trie_select(given.contiguous(), beams, level, 11, backend=backend)
        got = trie_select(given, beams, level, 11, backend=backend)
        assert all(torch.equal(x, y) for x, y in zip(got, want, strict=True))
    with pytest.raises(ValueError, match="each row of logits must be contiguous"):
        trie_select(logits.expand(3, 6, 40)[..., ::2], beams, level, 11, backend=backend)


@pytest.mark.parametrize("width", [1, 39, 40, 41, 79, 80, 81])
@pytest.mark.parametrize("backend", BACKENDS)
def test_ties_go_to_the_lower_sid(width, backend, device):
    """All digits of the radix are looked at: the keys differ in the node alone."""
    level = Level(torch.tensor([0, 40, 80]), torch.arange(40).repeat(2))
    level = Level(*(x.to(device) for x in level[:2]))
    logits = torch.zeros(1, 2, 40, device=device)
    nodes = torch.tensor([[1, 0]], device=device)  # the first beam is the later node
    beams = beams_of(logits[:, :, 0].clone(), nodes, torch.tensor([2], device=device))
    got = trie_select(logits, beams, level, width, backend=backend)
    num = min(width, 80)
    assert got.nodes[0].tolist() == [*range(num), *[-1] * (width - num)]
    parents = [1] * 40 + [0] * 40
    assert got.parents[0, :num].tolist() == parents[:num]


def test_tiles_change_nothing(device, monkeypatch):
    """More beams, children and places than one tile holds."""
    level = make_level(50, 60, device)
    logits, beams = make_beams(1, 40, 50, 60, device)
    want = trie_select_ref(logits, beams, level, 70)
    monkeypatch.setattr(triton_path, "_keys_config", lambda _: {"BLOCK": 16})
    monkeypatch.setattr(triton_path, "top_config", lambda: {"BLOCK": 128, "BLOCK_R": 16})
    got = trie_select(logits, beams, level, 70, backend="triton")
    torch.testing.assert_close(got.scores, want.scores)
    assert all(torch.equal(x, y) for x, y in zip(got[1:], want[1:], strict=True))


@pytest.mark.parametrize("num_excluded", [0, 1, 3, 4])
@pytest.mark.parametrize("num_sets", [0, 1])
def test_filters_of_any_size(num_excluded, num_sets, device):
    level = make_level(6, 12, device)
    logits, beams = make_beams(2, 3, 6, 12, device)
    num_items = len(level.tokens)  # one below each child
    words = pack_items(torch.rand(num_sets, num_items) < 2).to(device)
    places = torch.rand(2, num_items, device=device).argsort(1)[:, :num_excluded]
    set_index = torch.full((2,), num_sets - 1, device=device).int()
    item_begin = torch.arange(num_items + 1, device=device).int()
    excluded = places.sort(1)[0].int()
    given = Filter(words, word_ranks(words), set_index, excluded, item_begin)
    is_allowed = torch.ones(2, num_items, device=device).scatter(1, places, 0) > 0
    words = pack_items(is_allowed)
    allowed = ItemBits(item_begin.long(), words, word_ranks(words))
    want = trie_topk_ref(logits, beams, level._replace(allowed=allowed), 8)
    for backend in BACKENDS:
        got = trie_select(logits, beams, level, 8, filter=given, backend=backend)
        assert torch.equal(got.nodes, want.nodes)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_backends_agree_in_half_precision(dtype, device):
    level = make_level(20, 63, device)
    logits, beams = make_beams(2, 3, 20, 63, device)
    want = trie_select(logits.to(dtype), beams, level, 10, backend="torch")
    got = trie_select(logits.to(dtype), beams, level, 10, backend="triton")
    assert torch.equal(got.nodes, want.nodes)
    torch.testing.assert_close(got.scores, want.scores)


@pytest.mark.parametrize("backend", BACKENDS)
def test_batch_equals_one_by_one(backend, device):
    level = make_level(30, 20, device)
    logits, beams = make_beams(3, 3, 30, 20, device)
    together = trie_select(logits, beams, level, 10, backend=backend)
    for b in range(3):
        one = Beams(*(x[b : b + 1] for x in beams))
        alone = trie_select(logits[b : b + 1], one, level, 10, backend=backend)
        assert all(torch.equal(x[b : b + 1], y) for x, y in zip(together, alone, strict=True))


@pytest.mark.parametrize("backend", BACKENDS)
def test_minus_inf_is_never_chosen(backend, device):
    level = Level(torch.tensor([0, 3, 6], device=device), torch.arange(3, device=device).repeat(2))
    logits = torch.tensor([[[0.0, -INF, 1.0], [-INF, -INF, -INF]]], device=device)
    nodes, num_valid = torch.tensor([[0, 1]], device=device), torch.tensor([2], device=device)
    beams = beams_of(torch.zeros_like(nodes).float(), nodes, num_valid)
    for width in (1, 4):
        got = trie_select(logits, beams, level, width, backend=backend)
        assert got.nodes.tolist() == [[2, 0, -1, -1][:width]]


@pytest.mark.parametrize("bad", [float("nan"), INF])
@pytest.mark.parametrize("normalize", ["codebook", "children"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_bad_logits_flag_their_request_unless_unread(bad, normalize, backend, device):
    options = {"normalize": normalize, "backend": backend}
    level, got = check_a_bad_request(trie_select, bad, device, **options)
    logits = torch.randn(3, 4, 8, device=device)
    again = trie_select(logits, got, level, 4, **options)
    assert again.is_bad.tolist() == [False, True, False]


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_requests(backend, device):
    level = make_level(4, 8, device)
    logits, beams = torch.zeros(0, 1, 8, device=device), root_beams(0, device)
    got = trie_select(logits, beams, level, 5, backend=backend)
    assert [x.shape for x in got] == [(0, 5)] * 4 + [(0,)] * 2


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"scores": torch.zeros(2, 2)}, ValueError, r"scores must be \(2, 3\), got \(2, 2\)"),
        ({"nodes": torch.zeros(2, 3).short()}, TypeError, "nodes must be torch.int32 or"),
        ({"num_valid": torch.zeros(2).int()}, TypeError, "num_valid must be torch.int64"),
        ({"width": 0}, ValueError, "width must be at least 1"),
        ({"normalize": "all"}, ValueError, "normalize must be"),
        ({"tokens": torch.zeros(0).int()}, ValueError, "1 to 2\\^31 - 1 children, got 0"),
        ({"tokens": torch.zeros(40)}, TypeError, "tokens must be torch.uint8 or"),
        ({"words": torch.zeros(1, 2)}, TypeError, "words must be torch.int32"),
        ({"set_index": torch.zeros(3).int()}, ValueError, r"set_index must be \(2,\)"),
        ({"excluded": torch.zeros(2).int()}, ValueError, r"excluded \(batch, num_excluded\)"),
        ({"item_begin": torch.zeros(4).int()}, ValueError, r"item_begin must be \(41,\)"),
    ],
    ids=lambda x: "-".join(x) if isinstance(x, dict) else "",
)
def test_rejects(change, error, message):
    logits, beams = make_beams(2, 3, 5, 8, "cpu")
    level = Level(torch.arange(6) * 8, torch.arange(8).repeat(5))
    bits = torch.zeros(1, 2).int(), torch.zeros(1, 2).int(), torch.zeros(2).int()
    given = Filter(*bits, torch.zeros(2, 1).int(), torch.arange(41).int())
    parts = {"beams": beams, "level": level, "filter": given}
    options = {"width": 2, "normalize": "codebook"}
    (name,) = change
    options |= change if name in options else {}
    parts = {k: p._replace(**change) if name in p._fields else p for k, p in parts.items()}
    with pytest.raises(error, match=message):
        trie_select(logits, **parts, **options)


def test_the_levels_own_filter_is_not_read_over():
    level = make_level(4, 8, "cpu")
    logits, beams = make_beams(2, 3, 4, 8, "cpu")
    bits = ItemBits(torch.arange(3), torch.zeros(2, 1).int(), torch.zeros(2, 1).int())
    with pytest.raises(ValueError, match="give a filter"):
        trie_select(logits, beams, level._replace(allowed=bits), 2)
