import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store_engine._C import BeamStep, ItemTrie, beam_step

SIDS = np.array([[0, 1], [0, 2], [2, 0], [2, 0]], dtype=np.int32)
TRIE = ItemTrie(SIDS, [3, 3])


def candidates(trie, level, logits, scores, nodes, num_valid, normalize):
    """The oracle: every (score, node, parent, token) of one request, best first."""
    child_begin, tokens = trie.level(level)
    found = []
    for slot in range(num_valid):
        children = range(child_begin[nodes[slot]], child_begin[nodes[slot] + 1])
        row = logits[slot].astype(np.float64)
        allowed = row[tokens[children.start : children.stop]] if normalize == "children" else row
        lse = np.logaddexp.reduce(allowed)
        for node in children:
            if row[tokens[node]] > -np.inf and scores[slot] > -np.inf:
                score = scores[slot] + row[tokens[node]] - lse
                found.append((score, node, slot, int(tokens[node])))
    return sorted(found, key=lambda c: (-c[0], c[1], c[2]))


@st.composite
def steps(draw, logit):
    """A random trie and beams at a random level of it: (trie, level, arrays, width)."""
    sizes = draw(st.lists(st.sampled_from([1, 2, 5, 17, 300]), min_size=1, max_size=3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    num_items = draw(st.one_of(st.integers(1, 60), st.just(1500)))  # 1500: nodes with most codes
    sids = rng.integers(0, sizes, (num_items, len(sizes)), np.int32)
    trie = ItemTrie(sids, sizes, mode=draw(st.sampled_from(["fast", "compact"])))
    level = draw(st.integers(0, len(sizes) - 1))
    batch, beam_width = draw(st.integers(1, 4)), draw(st.integers(1, 9))
    num_nodes = (1, *trie.level_sizes)[level]
    arrays = (
        logit(rng, (batch, beam_width, sizes[level])).astype(np.float32),
        rng.choice([0.0, -0.0, -1.5, -3.0, -np.inf], (batch, beam_width)).astype(np.float32),
        rng.integers(0, num_nodes, (batch, beam_width)),
        rng.integers(0, beam_width + 1, batch),
    )
    return trie, level, arrays, draw(st.sampled_from([1, 2, 7, 20, 1000]))


def diffuse(rng, shape):
    logits = rng.normal(0, 3, shape)
    return np.where(rng.random(shape) < 0.2, -np.inf, logits)


def tied(rng, shape):
    return np.full(shape, rng.choice([0.0, -2.5, 80.0]))


@pytest.mark.parametrize("normalize", ["codebook", "children"])
@settings(deadline=None)
@given(steps(diffuse))
def test_equals_the_oracle(normalize, step):
    trie, level, arrays, width = step
    got = beam_step(trie, level, *arrays, width, normalize=normalize)
    for request in range(len(arrays[0])):
        want = candidates(trie, level, *(a[request] for a in arrays), normalize)
        scores = {c[1:]: c[0] for c in want}
        n = got.num_valid[request]
        assert n == min(width, len(want))
        ours = list(zip(*(a[request, :n].tolist() for a in got[:4]), strict=True))
        assert ours == sorted(ours, key=lambda c: (-c[0], c[3], c[1]))
        assert len({c[1:] for c in ours}) == n
        np.testing.assert_allclose([c[0] for c in ours], [c[0] for c in want[:n]], atol=1e-5)
        for score, parent, token, node in ours:
            np.testing.assert_allclose(score, scores[node, parent, token], atol=1e-5)
        assert (got.scores[request, n:] == -np.inf).all()
        assert (np.stack(got[1:4])[:, request, n:] == -1).all()


@pytest.mark.parametrize("codebook_size", [140, 300])
@pytest.mark.parametrize("missing", [[], [3, 40], [0, 69], range(0, 70, 2)], ids=str)
def test_the_only_code_above_the_others_is_found(missing, codebook_size):
    codes = np.setdiff1d(np.arange(70, dtype=np.int32), missing)
    trie = ItemTrie(codes[:, None], [codebook_size])
    # the first beam sets the threshold; of each other one, a single child scores above it
    logits = np.zeros((len(codes), 2, codebook_size), np.float32)
    logits[range(len(codes)), 1, codes] = 5
    ones = np.ones(len(codes), np.int64)
    beams = (np.zeros((len(codes), 2), np.float32), np.zeros((len(codes), 2), np.int64), 2 * ones)
    got = beam_step(trie, 0, logits, *beams, 1)
    assert got.tokens[:, 0].tolist() == codes.tolist()
    assert got.parents[:, 0].tolist() == ones.tolist()


@pytest.mark.parametrize("normalize", ["codebook", "children"])
@settings(deadline=None)
@given(steps(tied))
def test_ties_go_to_the_lower_node(normalize, step):
    trie, level, arrays, width = step
    got = beam_step(trie, level, *arrays, width, normalize=normalize)
    for request in range(len(arrays[0])):
        want = candidates(trie, level, *(a[request] for a in arrays), normalize)[:width]
        n = got.num_valid[request]
        assert got.nodes[request, :n].tolist() == [c[1] for c in want]
        assert got.parents[request, :n].tolist() == [c[2] for c in want]


@settings(deadline=None)
@given(steps(diffuse))
def test_threads_and_batch_change_no_bit(step):
    trie, level, arrays, width = step
    together = beam_step(trie, level, *arrays, width, num_threads=1)
    for num_threads in (2, 7):
        for a, b in zip(
            together, beam_step(trie, level, *arrays, width, num_threads=num_threads), strict=True
        ):
            assert a.tobytes() == b.tobytes()
    for request in range(len(arrays[0])):
        alone = beam_step(trie, level, *(a[request : request + 1] for a in arrays), width)
        for a, b in zip(together, alone, strict=True):
            assert a[request : request + 1].tobytes() == b.tobytes()


def start(batch=1, vocab_size=3):
    """The arrays of a first step: one beam, the root."""
    return [
        np.zeros((batch, 1, vocab_size), np.float32),
        np.zeros((batch, 1), np.float32),
        np.zeros((batch, 1), np.int64),
        np.ones(batch, np.int64),
    ]


@pytest.mark.parametrize("num_levels", [1, 4, 16])
def test_a_wide_beam_finds_every_sid_in_order_of_likelihood(num_levels):
    rng = np.random.default_rng(1)
    sids = np.unique(rng.integers(0, 3, (50, num_levels)), axis=0).astype(np.int32)
    tables = rng.normal(size=(num_levels, 3)).astype(np.float32)
    logprobs = tables - np.log(np.exp(tables).sum(1, keepdims=True))
    trie = ItemTrie(sids, [3] * num_levels)
    step = BeamStep(*start()[1:2], None, None, *start()[2:])
    for level in range(num_levels):
        logits = np.broadcast_to(tables[level], (1, step.scores.shape[1], 3)).copy()
        step = beam_step(trie, level, logits, step.scores, step.nodes, step.num_valid, 100)
    assert step.num_valid.tolist() == [len(sids)]
    rows = trie.leaf_rows(step.nodes[0])[1]
    total = logprobs[np.arange(num_levels), sids].sum(1)
    np.testing.assert_allclose(step.scores[0, : len(sids)], total[rows], atol=1e-5)
    assert sorted(rows) == list(range(len(sids)))


def test_an_only_child_costs_nothing_under_children():
    arrays = start()
    arrays[0][:] = [[0.3, 9.0, -1.7]]
    arrays[2][:] = 1
    got = beam_step(TRIE, 1, *arrays, 4, normalize="children")
    assert (got.scores[0, 0], got.tokens[0, 0], got.num_valid[0]) == (0.0, 0, 1)


@pytest.mark.parametrize("normalize", ["codebook", "children"])
def test_forbidden_everywhere_leaves_nothing(normalize):
    arrays = start()
    arrays[0][:] = -np.inf
    got = beam_step(TRIE, 0, *arrays, 4, normalize=normalize)
    assert got.num_valid.tolist() == [0]
    assert (got.nodes == -1).all()


def test_an_empty_catalogue_has_no_children():
    trie = ItemTrie(np.zeros((0, 2), np.int32), [3, 3])
    assert beam_step(trie, 0, *start(), 4).num_valid.tolist() == [0]


def test_an_empty_batch_is_allowed():
    got = beam_step(TRIE, 0, *start(batch=0), 4, num_threads=3)
    assert [a.shape for a in got] == [(0, 4)] * 4 + [(0,)]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("others", [0.0, -np.inf])
@pytest.mark.parametrize("vocab_size", [1, 15, 16, 1000])
def test_nan_and_infinite_logits_are_errors(vocab_size, others, bad):
    trie = ItemTrie(np.zeros((1, 1), np.int32), [vocab_size])
    for code in {0, vocab_size // 2, vocab_size - 1}:
        logits, scores, nodes, num_valid = (np.repeat(a, 3, axis=0) for a in start(1, vocab_size))
        logits = np.repeat(logits, 5, axis=1)
        scores, nodes = np.repeat(scores, 5, axis=1), np.repeat(nodes, 5, axis=1)
        num_valid[:] = 5
        logits[:] = others
        logits[2, 4, code] = bad
        with pytest.raises(ValueError, match="request 2: beam 4: logits NaN or"):
            beam_step(trie, 0, logits, scores, nodes, num_valid, 1, num_threads=2)
        num_valid[2] = 4  # a slot that is not valid is not read
        beam_step(trie, 0, logits, scores, nodes, num_valid, 1)


@given(steps(diffuse))
@settings(deadline=None)
def test_bfloat16_equals_its_float32(step):
    trie, level, (logits, *arrays), width = step
    halves = np.ascontiguousarray(logits.view(np.uint32) >> 16).astype(np.uint16)
    wide = (halves.astype(np.uint32) << 16).view(np.float32)
    narrow = beam_step(trie, level, halves, *arrays, width)
    for a, b in zip(narrow, beam_step(trie, level, wide, *arrays, width), strict=True):
        assert a.tobytes() == b.tobytes()


@pytest.mark.parametrize("nan", [0x7FC0, 0x7F80, 0xFFFF])
def test_bfloat16_nan_is_an_error(nan):
    logits = np.full((1, 1, 3), nan, np.uint16)
    with pytest.raises(ValueError, match="logits NaN or"):
        beam_step(TRIE, 0, logits, *start()[1:], 3)


def test_extreme_logits_stay_finite():
    logits = np.array([[[3e38, -3e38, 0.0]]], np.float32)
    got = beam_step(TRIE, 0, logits, *start()[1:], 3)
    assert got.scores[0, 0] == 0.0
    assert not np.isnan(got.scores).any()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"level": 2}, ValueError, "level must be"),
        ({"level": -1}, ValueError, "level must be"),
        ({"logits": np.zeros((1, 1, 4), np.float32)}, ValueError, r"\(1, 1, 3\)"),
        ({"logits": np.zeros((1, 3), np.float32)}, ValueError, "logits must have shape"),
        ({"logits": np.zeros((1, 1, 3))}, TypeError, "incompatible"),
        ({"logits": np.zeros((1, 1, 6), np.float32)[..., ::2]}, TypeError, "incompatible"),
        ({"scores": np.zeros(1, np.float32)}, ValueError, "scores must be 2-D"),
        ({"scores": np.full((1, 1), np.nan, np.float32)}, ValueError, "score NaN"),
        ({"scores": np.full((1, 1), np.inf, np.float32)}, ValueError, "score NaN"),
        ({"nodes": np.zeros((1, 2), np.int64)}, ValueError, "nodes must have shape"),
        ({"nodes": np.zeros((1, 1), np.int32)}, TypeError, "incompatible"),
        ({"nodes": np.ones((1, 1), np.int64)}, ValueError, r"node 1 is outside \[0, 1\)"),
        ({"nodes": -np.ones((1, 1), np.int64)}, ValueError, "node -1"),
        ({"num_valid": np.zeros(2, np.int64)}, ValueError, "num_valid must have shape"),
        ({"num_valid": np.full(1, 2)}, ValueError, r"num_valid must be in \[0, 1\], got 2"),
        ({"num_valid": np.full(1, -1)}, ValueError, r"num_valid must be in"),
        ({"width": 0}, ValueError, "width must be at least 1"),
        ({"num_threads": 0}, ValueError, r"num_threads must be in \[1, 1024\]"),
        ({"normalize": "soft"}, ValueError, "'codebook' or 'children', got 'soft'"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_rejects(change, error, message):
    names = ("logits", "scores", "nodes", "num_valid")
    arguments = {"level": 0, "width": 4, **dict(zip(names, start(), strict=True)), **change}
    with pytest.raises(error, match=message):
        beam_step(TRIE, **arguments)
