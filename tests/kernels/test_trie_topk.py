import pytest
import torch
from beam_steps import INF, beams_of, brute_force, check_a_bad_request, make_beams, make_level

from store_engine._C import ItemTrie
from store_engine.catalog.trie_arrays import TrieArrays
from store_engine.decoding.backends import CppBackend, SearchSpace
from store_engine.kernels._dispatch import device_guard
from store_engine.kernels.trie_topk import (
    MAX_TRITON_WIDTH,
    Beams,
    ItemBits,
    Level,
    pack_items,
    root_beams,
    trie_topk,
    trie_topk_ref,
    word_ranks,
)


def bits_of(is_allowed, item_begin):
    words = pack_items(is_allowed)
    return ItemBits(item_begin, words, word_ranks(words))


# batch, beam width, nodes, codebook, width; the interpreter sorts slowly
SMALL = [(1, 1, 1, 1, 1), (2, 2, 20, 63, 4), (1, 2, 5, 40, 70), (2, 3, 8, 16, 20)]
LARGE = [(3, 4, 63, 256, 4), (2, 3, 5, 1000, 300), (4, 20, 64, 16, 20)]
CASES = [("torch", case) for case in SMALL + LARGE] + [("triton", case) for case in SMALL]


@pytest.mark.parametrize(
    ("backend", "case"),
    CASES,
    ids=lambda x: x if isinstance(x, str) else "beams={}x{},nodes={},k={},width={}".format(*x),
)
@pytest.mark.parametrize("normalize", ["codebook", "children"])
@pytest.mark.parametrize("is_filtered", [False, True])
def test_equals_brute_force(backend, case, normalize, is_filtered, device):
    batch, beam_width, num_nodes, codebook_size, width = case
    level = make_level(num_nodes, codebook_size, device)
    logits, beams = make_beams(batch, beam_width, num_nodes, codebook_size, device)
    alive = None
    if is_filtered:
        num_items = torch.randint(1, 4, (len(level.tokens),))  # below each child
        item_begin = torch.nn.functional.pad(num_items.cumsum(0), (1, 0))
        is_allowed = torch.rand(batch, int(num_items.sum())) < 0.3
        owner = torch.arange(len(num_items)).repeat_interleave(num_items)
        alive = torch.zeros(batch, len(num_items)).index_add(1, owner, is_allowed.float()) > 0
        allowed = bits_of(is_allowed.to(device), item_begin.to(device))
        level = level._replace(allowed=allowed)
        request, child = torch.meshgrid(*map(torch.arange, alive.shape), indexing="ij")
        found = allowed.is_alive(request.to(device), child.to(device))
        assert torch.equal(found.cpu(), alive)
    got = trie_topk(logits, beams, level, width, normalize=normalize, backend=backend)
    want = brute_force(logits, beams, level, width, normalize, alive)
    for b, rows in enumerate(want):
        n = len(rows)
        assert int(got.num_valid[b]) == n
        assert got.nodes[b, :n].tolist() == [row[1] for row in rows]
        assert got.parents[b, :n].tolist() == [row[2] for row in rows]
        assert got.tokens[b, :n].tolist() == [row[3] for row in rows]
        scores = torch.tensor([-row[0] for row in rows], device=device)
        torch.testing.assert_close(got.scores[b, :n], scores)
        assert got.scores[b, n:].eq(-INF).all()
        assert all(x[b, n:].eq(-1).all() for x in (got.nodes, got.parents, got.tokens))


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_ties_go_to_the_lower_sid(backend, device):
    level = Level(torch.tensor([0, 40, 80]), torch.arange(40).repeat(2))
    level = Level(*(x.to(device) for x in level[:2]))
    logits = torch.zeros(1, 2, 40, device=device)
    nodes = torch.tensor([[1, 0]], device=device)  # the first beam is the later node
    beams = beams_of(logits[:, :, 0], nodes, torch.tensor([2], device=device))
    got = trie_topk(logits, beams, level, 50, backend=backend)
    assert got.nodes[0].tolist() == list(range(50))
    assert got.parents[0].tolist() == [1] * 40 + [0] * 10


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_ties_go_as_in_the_cpp_core(backend, device):
    sids = torch.randint(0, 6, (40, 2), dtype=torch.int32)
    trie = TrieArrays(ItemTrie(sids.numpy(), [6, 6]))
    logits = torch.zeros(2, 5, 6)
    nodes = torch.stack([torch.randperm(trie.level_sizes[1])[:5] for _ in range(2)])
    scores = -torch.randint(0, 2, (2, 5)).float().sort(1)[0]
    beams = beams_of(scores, nodes, torch.tensor([5, 4]))
    want = CppBackend().beam_step(SearchSpace(trie), 1, logits, beams, 12)
    level = Level(trie.child_begin[1].to(device), trie.token[1].to(device))
    beams = Beams(*(x.to(device) for x in beams))
    got = trie_topk(logits.to(device), beams, level, 12, backend=backend)
    for name in ("parents", "tokens", "nodes", "num_valid"):
        assert torch.equal(getattr(got, name).cpu(), getattr(want, name).long()), name


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_backends_agree_in_half_precision(dtype, device):
    level = make_level(20, 63, device)
    logits, beams = make_beams(2, 3, 20, 63, device)
    want = trie_topk(logits.to(dtype), beams, level, 10, backend="torch")
    got = trie_topk(logits.to(dtype), beams, level, 10, backend="triton")
    assert torch.equal(got.nodes, want.nodes)
    torch.testing.assert_close(got.scores, want.scores)


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_batch_equals_one_by_one(backend, device):
    level = make_level(30, 20, device)
    logits, beams = make_beams(3, 3, 30, 20, device)
    together = trie_topk(logits, beams, level, 10, backend=backend)
    for b in range(3):
        one = Beams(*(x[b : b + 1] for x in beams))
        alone = trie_topk(logits[b : b + 1], one, level, 10, backend=backend)
        assert all(torch.equal(x[b : b + 1], y) for x, y in zip(together, alone, strict=True))


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_minus_inf_is_never_chosen(backend, device):
    level = Level(torch.tensor([0, 3, 6], device=device), torch.arange(3, device=device).repeat(2))
    logits = torch.tensor([[[0.0, -INF, 1.0], [-INF, -INF, -INF]]], device=device)
    nodes, num_valid = torch.tensor([[0, 1]], device=device), torch.tensor([2], device=device)
    beams = beams_of(torch.zeros_like(nodes).float(), nodes, num_valid)
    got = trie_topk(logits, beams, level, 4, backend=backend)
    assert got.nodes.tolist() == [[2, 0, -1, -1]]
    assert got.num_valid.tolist() == [2]


@pytest.mark.parametrize("backend", ["torch", "triton"])
@pytest.mark.parametrize("bad", [float("nan"), INF])
@pytest.mark.parametrize("normalize", ["codebook", "children"])
def test_bad_logits_flag_their_request_unless_unread(backend, bad, normalize, device):
    options = {"normalize": normalize, "backend": backend}
    level, got = check_a_bad_request(trie_topk, bad, device, **options)
    again = trie_topk(
        torch.randn(3, 1, 8, device=device).expand(-1, 4, -1), got, level, 4, **options
    )
    assert again.is_bad.tolist() == [False, True, False]


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_no_requests(backend, device):
    level = make_level(4, 8, device)
    logits, beams = torch.zeros(0, 1, 8, device=device), root_beams(0, device)
    got = trie_topk(logits, beams, level, 5, backend=backend)
    assert [x.shape for x in got] == [(0, 5)] * 4 + [(0,)] * 2


def strided(x):
    """The same values, every second of a tensor twice as long."""
    return x.repeat_interleave(2, dim=-1)[..., ::2]


@pytest.mark.parametrize("backend", ["torch", "triton"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": torch.zeros(2, 2)}, r"scores must be \(2, 3\), got \(2, 2\)"),
        ({"scores": torch.zeros(2, 3).double()}, "scores must be torch.float32"),
        ({"nodes": torch.zeros(2, 3).int()}, "nodes must be torch.int64"),
        ({"num_valid": torch.zeros(3)}, r"num_valid must be \(2,\)"),
        ({"is_bad": torch.zeros(2)}, "is_bad must be torch.bool"),
        ({"width": 0}, "width must be at least 1"),
        ({"normalize": "all"}, "normalize must be"),
        ({"child_begin": strided}, r"child_begin must be contiguous, got strides \(2,\)"),
        ({"tokens": strided}, r"tokens must be contiguous, got strides \(2,\)"),
        ({"item_begin": strided}, r"item_begin must be contiguous, got strides \(2,\)"),
        ({"words": strided}, r"words must be contiguous, got strides \(4, 2\)"),
        ({"ranks": strided}, r"ranks must be contiguous, got strides \(4, 2\)"),
        ({"words": lambda x: x.long()}, "words must be int32, got torch.int64"),
        ({"words": lambda x: x[:1]}, r"words and ranks must be \(2, num_words\)"),
        ({"item_begin": lambda x: x[1:]}, r"item_begin must be \(\d+,\), got"),
        ({"tokens": lambda x: x.to("meta")}, "tokens must be on cpu, got meta"),
    ],
    ids=lambda x: "-".join(x) if isinstance(x, dict) else "",
)
def test_rejects(backend, change, message):
    logits, beams = make_beams(2, 3, 4, 8, "cpu")
    level, width, normalize = make_level(4, 8, "cpu"), 2, "codebook"
    num_children = len(level.tokens)
    bits = bits_of(torch.ones(2, 50).bool(), torch.arange(num_children + 1))
    ((name, value),) = change.items()
    if isinstance(value, torch.Tensor):
        beams = beams._replace(**change)
    elif name in Level._fields:
        level = level._replace(**{name: value(getattr(level, name))})
    elif name in ItemBits._fields:
        bits = bits._replace(**{name: value(getattr(bits, name))})
    width, normalize = change.get("width", width), change.get("normalize", normalize)
    level = level._replace(allowed=bits)
    options = {"normalize": normalize, "backend": backend}
    if torch.cuda.is_available():
        options["backend"] = "torch"  # Triton would refuse the CPU's tensors first
    with pytest.raises(ValueError, match=message):
        trie_topk(logits, beams, level, width, **options)


def test_a_list_too_long_for_the_kernel(device):
    level = make_level(4, 8, device)
    logits, beams = make_beams(2, 3, 4, 8, device)
    with pytest.raises(ValueError, match="keeps at most 2048, got 2049"):
        trie_topk(logits, beams, level, MAX_TRITON_WIDTH + 1, backend="triton")
    assert trie_topk(logits, beams, level, MAX_TRITON_WIDTH + 1).scores.shape == (2, 2049)


def test_launches_on_the_device_of_its_tensors(device, monkeypatch):
    """Triton launches on the current device, which may be another one."""
    guarded = []

    def guard(x):
        guarded.append(x)
        return device_guard(x)

    monkeypatch.setattr("store_engine.kernels.triton.trie_topk.device_guard", guard)
    logits, beams = make_beams(1, 2, 4, 8, device)
    trie_topk(logits, beams, make_level(4, 8, device), 2, backend="triton")
    assert guarded == [logits]


def test_ref_takes_the_arguments_of_the_op():
    level = make_level(4, 8, "cpu")
    logits, beams = make_beams(2, 3, 4, 8, "cpu")
    want, got = trie_topk_ref(logits, beams, level, 5), trie_topk(logits, beams, level, 5)
    for x, y in zip(want, got, strict=True):
        assert torch.equal(x, y)
