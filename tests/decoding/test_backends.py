import math

import numpy as np
import pytest
import torch
from engines import needs_triton

from store_engine._C import ItemTrie, RowSet
from store_engine.catalog.item_filter import ItemFilter
from store_engine.catalog.trie_arrays import TrieArrays
from store_engine.decoding.backends import (
    NonFiniteLogitsError,
    SearchSpace,
    check_beams,
    resolve_backend,
)
from store_engine.errors import InputError
from store_engine.kernels.trie_topk import Beams, root_beams

BACKENDS = ["cpp", "torch"]
SIZES = (9, 6, 5)


def beam_step(trie, level, logits, beams, width, *, backend, **space):
    backend = resolve_backend(backend, torch.device("cpu"))
    return backend.beam_step(SearchSpace(trie, **space), level, logits, beams, width)


def random_trie(num_items, seed=0):
    rng = np.random.default_rng(seed)
    sids = np.stack([rng.integers(0, size, num_items) for size in SIZES], 1).astype(np.int32)
    return TrieArrays(ItemTrie(sids, list(SIZES)))


def random_beams(trie, level, batch, beam_width):
    """Different nodes per request in any order, descending scores, some requests not full."""
    most = min(beam_width, trie.level_sizes[level])
    num_valid = torch.randint(1, most + 1, (batch,))
    nodes = torch.full((batch, beam_width), -1)
    scores = torch.full((batch, beam_width), -torch.inf)
    for i, n in enumerate(num_valid.tolist()):
        nodes[i, :n] = torch.randperm(trie.level_sizes[level])[:n]
        scores[i, :n] = -torch.rand(n).cumsum(0)
    return Beams(scores, nodes, nodes, nodes, num_valid, torch.zeros(batch, dtype=torch.bool))


def oracle(trie, level, logits, beams, width, normalize):
    """The definition, one request and one candidate at a time."""
    results = []
    for request in range(len(logits)):
        candidates = []
        for beam in range(int(beams.num_valid[request])):
            node = int(beams.nodes[request, beam])
            begin, end = trie.child_begin[level][node : node + 2].tolist()
            row = logits[request, beam].double()
            codes = trie.token[level][begin:end]
            log_sum = (row if normalize == "codebook" else row[codes]).logsumexp(0)
            for child, code in zip(range(begin, end), codes.tolist(), strict=True):
                score = float(beams.scores[request, beam] + row[code] - log_sum)
                if score > -math.inf:
                    candidates.append((-score, child, beam, code))
        results.append(sorted(candidates)[:width])
    return results


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("normalize", ["codebook", "children"])
@pytest.mark.parametrize(
    ("level", "batch", "beam_width", "width"),
    [(0, 3, 1, 4), (1, 1, 1, 1), (1, 5, 8, 8), (2, 4, 16, 63), (2, 3, 40, 1000)],
)
def test_equals_the_definition(backend, normalize, level, batch, beam_width, width):
    trie = random_trie(150)
    beams = random_beams(trie, level, batch, beam_width)
    logits = 2 * torch.randn(batch, beam_width, SIZES[level])
    logits[torch.rand_like(logits) < 0.1] = -torch.inf
    got = beam_step(trie, level, logits, beams, width, normalize=normalize, backend=backend)
    want = oracle(trie, level, logits, beams, width, normalize)
    assert got.num_valid.tolist() == [len(one) for one in want]
    for i, one in enumerate(want):
        found = list(
            zip(got.nodes[i].tolist(), got.parents[i].tolist(), got.tokens[i].tolist(), strict=True)
        )
        assert found[: len(one)] == [(child, beam, code) for _, child, beam, code in one]
        assert set(found[len(one) :]) <= {(-1, -1, -1)}
        scores = torch.tensor([-score for score, *_ in one])
        torch.testing.assert_close(got.scores[i, : len(one)], scores, atol=1e-5, rtol=1e-5)
        assert (got.scores[i, len(one) :] == -torch.inf).all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_widened_exactly(backend, dtype):
    trie = random_trie(150)
    beams = random_beams(trie, 1, batch=3, beam_width=5)
    logits = torch.randn(3, 5, 2 * SIZES[1]).to(dtype)[:, :, ::2]  # not contiguous
    got = beam_step(trie, 1, logits, beams, 10, backend=backend)
    want = beam_step(trie, 1, logits.float(), beams, 10, backend=backend)
    for a, b in zip(got, want, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("backend", BACKENDS)
def test_of_equal_scores_the_lower_sid_is_first(backend):
    trie = random_trie(150)
    beams = root_beams(2, "cpu")
    for level, width in enumerate((4, 7, 12)):
        logits = torch.zeros(2, beams.nodes.shape[1], SIZES[level])
        beams = beam_step(trie, level, logits, beams, width, backend=backend)
        # equal scores, so the lowest prefixes survive and stand in order
        assert beams.nodes.tolist() == [list(range(width))] * 2


@pytest.mark.parametrize("backend", BACKENDS)
def test_batch_equals_one_by_one(backend):
    trie = random_trie(150)
    beams = random_beams(trie, 1, batch=6, beam_width=5)
    logits = torch.randn(6, 5, SIZES[1])
    together = beam_step(trie, 1, logits, beams, 10, backend=backend)
    for i in range(6):
        one = Beams(*(x[i : i + 1] for x in beams))
        alone = beam_step(trie, 1, logits[i : i + 1], one, 10, backend=backend)
        for a, b in zip(alone, together, strict=True):
            assert torch.equal(a[0], b[i])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("normalize", ["codebook", "children"])
def test_logits_that_are_no_numbers_are_flagged_per_request(backend, bad, normalize):
    trie = random_trie(150)
    beams = random_beams(trie, 1, batch=3, beam_width=4)
    logits = torch.randn(3, 4, SIZES[1])
    options = {"backend": backend, "normalize": normalize}
    want = beam_step(trie, 1, logits, beams, 4, **options)
    logits[1, 0, 3] = bad
    got = beam_step(trie, 1, logits, beams, 4, **options)
    assert got.is_bad.tolist() == [False, True, False]
    for a, b in zip(got, want, strict=True):
        assert torch.equal(a[[0, 2]], b[[0, 2]])
    assert got.num_valid[1] == 0
    assert (torch.stack(got[1:4])[:, 1] == -1).all()
    again = beam_step(trie, 2, torch.randn(3, 4, SIZES[2]), got, 4, **options)
    assert again.is_bad.tolist() == [False, True, False]  # as it stays
    with pytest.raises(NonFiniteLogitsError, match=r"request 1: logits NaN or \+inf") as error:
        check_beams(again)
    assert error.value.requests == (1,)


@pytest.mark.parametrize("backend", BACKENDS)
def test_slots_that_are_no_beams_are_not_read(backend):
    trie = random_trie(150)
    beams = random_beams(trie, 1, batch=2, beam_width=4)._replace(num_valid=torch.tensor([1, 2]))
    logits = torch.randn(2, 4, SIZES[1])
    logits[0, 1:], logits[1, 2:] = torch.nan, torch.nan
    assert not beam_step(trie, 1, logits, beams, 4, backend=backend).scores.isnan().any()


def test_unknown_backend():
    with pytest.raises(ValueError, match=r"'triton', 'graph'.*, got 'cuda'"):
        beam_step(random_trie(9), 0, torch.zeros(1, 1, 9), root_beams(1, "cpu"), 2, backend="cuda")


@needs_triton
def test_triton_needs_a_gpu_or_the_interpreter(monkeypatch):
    monkeypatch.setattr("store_engine.kernels._dispatch._INTERPRET", False)
    with pytest.raises(InputError, match="backend='triton' needs a CUDA tensor, got one on cpu"):
        resolve_backend("triton", torch.device("cpu"))


@needs_triton
@pytest.mark.parametrize("normalize", ["codebook", "children"])
@pytest.mark.parametrize("has_filter", [False, True])
def test_triton_equals_cpp(normalize, has_filter, device):
    """On a tiny shape: without a GPU the kernel is interpreted."""
    trie = random_trie(60)
    beams = random_beams(trie, 1, batch=2, beam_width=3)
    logits = torch.randn(2, 3, SIZES[1])

    def step(backend, device):
        there, item_filter = TrieArrays(trie.item_trie, device), None
        if has_filter:
            item_filter = ItemFilter(there, [None, None], [np.arange(0, 60, 2), np.arange(50)])
        found = beam_step(
            there,
            1,
            logits.to(device),
            Beams(*(x.to(device) for x in beams)),
            5,
            normalize=normalize,
            backend=backend,
            item_filter=item_filter,
        )
        return Beams(*(x.cpu() for x in found))

    got, want = step("triton", device), step("cpp", "cpu")
    torch.testing.assert_close(got.scores, want.scores)
    for a, b in zip(got[1:], want[1:], strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("num_items", [1, 7, 40, 300])
@pytest.mark.parametrize("has_filter", [False, True])
def test_unique_leaves_are_the_same_over_backends(num_items, has_filter):
    trie, item_filter = random_trie(num_items), None
    rng = np.random.default_rng(num_items)
    for _ in range(10):
        if has_filter:
            rows = [np.flatnonzero(rng.random(num_items) < p) for p in (0.05, 0.5, 0.9, 0.2)]
            sets = [RowSet.from_rows(trie.item_trie, some) for some in rows[:2]]
            item_filter = ItemFilter(trie, [*sets, None], [rows[3], rows[3][:0], rows[2]])
        for level, num_nodes in enumerate(trie.level_sizes[:-1]):
            nodes = torch.from_numpy(rng.integers(-1, num_nodes, (3, 50)))
            want, got = (
                resolve_backend(backend, torch.device("cpu")).unique_leaves(
                    SearchSpace(trie, item_filter), level, nodes
                )
                for backend in BACKENDS
            )
            for a, b in zip(got, want, strict=True):
                assert a.tolist() == b.tolist()
