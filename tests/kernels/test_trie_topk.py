import pytest
import torch

from store_engine._C import ItemTrie
from store_engine.catalog.trie_arrays import TrieArrays
from store_engine.decoding.beam_step import Beams, beam_step
from store_engine.kernels.trie_topk import (
    Level,
    TopChildren,
    item_filter,
    trie_topk,
    trie_topk_ref,
)

INF = float("inf")


def make_level(num_nodes, codebook_size, device):
    """A random step of a trie: each node has between no child and all codes."""
    is_child = torch.rand(num_nodes, codebook_size) < torch.rand(num_nodes, 1)
    begin = torch.nn.functional.pad(is_child.sum(1).cumsum(0), (1, 0))
    return Level(begin.to(device), is_child.nonzero()[:, 1].to(device))


def make_beams(batch, beam_width, num_nodes, codebook_size, device):
    logits = torch.randn(batch, beam_width, codebook_size, device=device)
    scores = -4 * torch.rand(batch, beam_width, device=device)
    nodes = torch.stack([torch.randperm(num_nodes)[:beam_width] for _ in range(batch)]).to(device)
    num_valid = torch.randint(0, beam_width + 1, (batch,), device=device)
    num_valid[0] = beam_width
    return logits, scores, nodes, num_valid


def brute_force(logits, scores, nodes, num_valid, level, width, normalize="codebook", alive=None):
    """Ten lines of Python, the oracle of the reference."""
    found = []
    for b in range(len(logits)):
        rows = []
        for m in range(int(num_valid[b])):
            children = range(*level.child_begin[nodes[b, m] : nodes[b, m] + 2].tolist())
            codes = level.tokens[list(children)].long()
            x = logits[b, m]
            lse = (x if normalize == "codebook" else x[codes]).logsumexp(0)
            rows += [
                (-float(scores[b, m] + (x[code] - lse)), child, m, int(code))
                for child, code in zip(children, codes, strict=True)
                if alive is None or alive[b, child]
            ]
        found.append(sorted(rows)[:width])
    return found


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
    beams = make_beams(batch, beam_width, num_nodes, codebook_size, device)
    alive, allowed = None, None
    if is_filtered:
        num_items = torch.randint(1, 4, (len(level.tokens),))  # below each child
        item_begin = torch.nn.functional.pad(num_items.cumsum(0), (1, 0))
        is_allowed = torch.rand(batch, int(num_items.sum())) < 0.3
        owner = torch.arange(len(num_items)).repeat_interleave(num_items)
        alive = torch.zeros(batch, len(num_items)).index_add(1, owner, is_allowed.float()) > 0
        allowed = item_filter(is_allowed.to(device), item_begin.to(device))
    got = trie_topk(*beams, level, width, normalize=normalize, allowed=allowed, backend=backend)
    want = brute_force(*beams, level, width, normalize, alive)
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
    level = Level(*(x.to(device) for x in level))
    logits = torch.zeros(1, 2, 40, device=device)
    nodes = torch.tensor([[1, 0]], device=device)  # the first beam is the later node
    num_valid = torch.tensor([2], device=device)
    got = trie_topk(logits, logits[:, :, 0], nodes, num_valid, level, 50, backend=backend)
    assert got.nodes[0].tolist() == list(range(50))
    assert got.parents[0].tolist() == [1] * 40 + [0] * 10


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_ties_go_as_in_the_cpp_core(backend, device):
    sids = torch.randint(0, 6, (40, 2), dtype=torch.int32)
    trie = TrieArrays(ItemTrie(sids.numpy(), [6, 6]))
    logits = torch.zeros(2, 5, 6)
    nodes = torch.stack([torch.randperm(trie.level_sizes[1])[:5] for _ in range(2)])
    scores = -torch.randint(0, 2, (2, 5)).float().sort(1)[0]
    num_valid = torch.tensor([5, 4])
    want = beam_step(trie, 1, logits, Beams(scores, nodes, nodes, nodes, num_valid), 12)
    level = Level(trie.child_begin[1].to(device), trie.token[1].to(device))
    beams = (x.to(device) for x in (logits, scores, nodes, num_valid))
    got = trie_topk(*beams, level, 12, backend=backend)
    for name in ("parents", "tokens", "nodes", "num_valid"):
        assert torch.equal(getattr(got, name).cpu(), getattr(want, name).long()), name


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_backends_agree_in_half_precision(dtype, device):
    level = make_level(20, 63, device)
    logits, *beams = make_beams(2, 3, 20, 63, device)
    want = trie_topk(logits.to(dtype), *beams, level, 10, backend="torch")
    got = trie_topk(logits.to(dtype), *beams, level, 10, backend="triton")
    assert torch.equal(got.nodes, want.nodes)
    torch.testing.assert_close(got.scores, want.scores)


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_batch_equals_one_by_one(backend, device):
    level = make_level(30, 20, device)
    beams = make_beams(3, 3, 30, 20, device)
    together = trie_topk(*beams, level, 10, backend=backend)
    for b in range(3):
        alone = trie_topk(*(x[b : b + 1] for x in beams), level, 10, backend=backend)
        assert all(torch.equal(x[b : b + 1], y) for x, y in zip(together, alone, strict=True))


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_minus_inf_is_never_chosen(backend, device):
    level = Level(torch.tensor([0, 3, 6], device=device), torch.arange(3, device=device).repeat(2))
    logits = torch.tensor([[[0.0, -INF, 1.0], [-INF, -INF, -INF]]], device=device)
    nodes, num_valid = torch.tensor([[0, 1]], device=device), torch.tensor([2], device=device)
    got = trie_topk(
        logits, torch.zeros_like(nodes).float(), nodes, num_valid, level, 4, backend=backend
    )
    assert got.nodes.tolist() == [[2, 0, -1, -1]]
    assert got.num_valid.tolist() == [2]


@pytest.mark.parametrize("backend", ["torch", "triton"])
@pytest.mark.parametrize("bad", [float("nan"), INF])
def test_bad_logits_are_refused_unless_unread(backend, bad, device):
    level = make_level(4, 8, device)
    logits, scores, nodes, _ = make_beams(2, 3, 4, 8, device)
    logits[1, 2, 5] = bad
    unread = torch.tensor([3, 2], device=device)
    assert isinstance(
        trie_topk(logits, scores, nodes, unread, level, 4, backend=backend), TopChildren
    )
    if device == "cpu":  # on a GPU a device-side assertion ends the process
        with pytest.raises(ValueError, match="request 1"):
            trie_topk(logits, scores, nodes, unread + 1, level, 4, backend=backend)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": torch.zeros(2, 2)}, r"scores must be \(2, 3\), got \(2, 2\)"),
        ({"num_valid": torch.zeros(3)}, r"num_valid must be \(2,\)"),
        ({"width": 0}, "width must be at least 1"),
        ({"normalize": "all"}, "normalize must be"),
    ],
    ids=["scores", "num_valid", "width", "normalize"],
)
def test_rejects(change, message):
    logits, scores, nodes, num_valid = make_beams(2, 3, 4, 8, "cpu")
    options = {"logits": logits, "scores": scores, "nodes": nodes, "num_valid": num_valid}
    with pytest.raises(ValueError, match=message):
        trie_topk(**(options | {"level": make_level(4, 8, "cpu"), "width": 2} | change))


def test_ref_takes_the_arguments_of_the_op():
    level = make_level(4, 8, "cpu")
    beams = make_beams(2, 3, 4, 8, "cpu")
    for x, y in zip(trie_topk_ref(*beams, level, 5), trie_topk(*beams, level, 5), strict=True):
        assert torch.equal(x, y)
