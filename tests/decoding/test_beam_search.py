import numpy as np
import pytest
import torch
from engines import needs_triton

from store_engine._C import ItemTrie, LiveTrie, RowSet
from store_engine.catalog.item_filter import ItemFilter
from store_engine.catalog.trie_arrays import SearchTrie, TrieArrays
from store_engine.decoding.backends import CppBackend, SearchSpace
from store_engine.kernels.trie_topk import Beams, root_beams
from store_engine.model.attention import PackedSequences


def naive_beam_search(bench, history, beam_width, normalize="codebook", trie=None):
    """Beam search that runs every beam's whole sequence again at every level: no cache at all."""
    context, model, trie = bench.tokens(history), bench.model, trie or bench.trie
    space = SearchSpace(trie, normalize=normalize)
    beams, prefixes = root_beams(1, "cpu"), [context]
    for level in range(trie.num_levels):
        states = []
        for tokens in prefixes:
            sequence = PackedSequences(torch.tensor([0, len(tokens)]))
            states.append(model.hidden_states(model.embed(tokens), sequence)[-1])
        logits = model.level_logits(torch.stack(states), level)[None]
        beams = CppBackend().beam_step(space, level, logits, beams, beam_width)
        n = int(beams.num_valid[0])
        beams = Beams(*(x[:, :n] for x in beams[:4]), *beams[4:])
        offset = model.vocabulary.level_offsets[level]
        prefixes = [
            torch.cat([prefixes[parent], token[None] + offset])
            for parent, token in zip(beams.parents[0].tolist(), beams.tokens[0], strict=True)
        ]
    return beams


@pytest.mark.parametrize("backend", ["cpp", "torch"])
@pytest.mark.parametrize("beam_width", [1, 3, 20, 63])
@pytest.mark.parametrize("num_kv_heads", [1, 2, 4])
def test_equals_a_search_without_a_cache(make_bench, histories, backend, beam_width, num_kv_heads):
    bench = make_bench(num_kv_heads=num_kv_heads)
    got = bench.search(histories, beam_width, backend=backend)
    for i, history in enumerate(histories):
        want = naive_beam_search(bench, history, beam_width)
        n = int(want.num_valid[0])
        assert int(got.num_valid[i]) == n
        assert got.nodes[i, :n].tolist() == want.nodes[0].tolist()
        torch.testing.assert_close(got.scores[i, :n], want.scores[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("normalize", ["codebook", "children"])
def test_a_wide_beam_ranks_the_whole_catalogue(make_bench, histories, normalize):
    bench = make_bench(num_items=200)
    beams = bench.search(histories, 1000, normalize=normalize)
    scores = bench.scores(histories, normalize=normalize)
    assert beams.num_valid.tolist() == [bench.trie.level_sizes[-1]] * len(histories)
    for i in range(len(histories)):
        _, rows = bench.trie.item_trie.leaf_rows(beams.nodes[i].numpy())
        ranked = scores[i, torch.from_numpy(rows)]
        assert (ranked.diff() <= 1e-5).all()  # so no item was passed over
        assert sorted(rows.tolist()) == list(range(200))


@needs_triton
def test_triton_equals_cpp(make_bench, device):
    """On a tiny shape: without a GPU the kernels are interpreted."""
    bench = make_bench(num_items=9, num_layers=1)
    want = bench.search([[3], []], 2, backend="cpp")
    got = bench.to(device).search([[3], []], 2, backend="triton")
    assert got.nodes.tolist() == want.nodes.tolist()
    torch.testing.assert_close(got.scores.cpu(), want.scores, atol=1e-4, rtol=1e-4)


def test_batch_equals_one_by_one(make_bench, histories):
    bench = make_bench()
    together = bench.search(histories, 7)
    for i, history in enumerate(histories):
        alone = bench.search([history], 7)
        assert alone.nodes[0].tolist() == together.nodes[i].tolist()
        torch.testing.assert_close(alone.scores[0], together.scores[i], atol=1e-5, rtol=1e-5)


def test_a_used_cache_changes_nothing(make_bench, histories):
    bench = make_bench()
    want = bench.search([[5, 6]], 9)
    bench.search(histories, 30)
    held = bench.cache.nbytes
    again = bench.search([[5, 6]], 9)
    assert torch.equal(want.scores, again.scores)
    assert torch.equal(want.nodes, again.nodes)
    assert bench.cache.nbytes == held


def test_fewer_items_than_beams(make_bench):
    bench = make_bench(num_items=3)
    beams = bench.search([[0]], 20)
    assert beams.nodes.tolist() == [sorted([0, 1, 2], key=beams.nodes[0].tolist().index)]


def sparse_sids(num_free):
    """40 items whose prefixes of `num_free` codes differ: from there on each has but one way."""
    rng = np.random.default_rng(0)
    free = np.stack(np.unravel_index(rng.permutation(7**num_free)[:40], [7] * num_free), axis=1)
    rest = rng.integers(0, 7, (40, 5 - num_free))
    return np.concatenate([free, rest], axis=1).astype(np.int32)


@pytest.mark.parametrize("beam_width", [1, 7, 40, 63])
@pytest.mark.parametrize(
    ("normalize", "num_free", "num_passes"),
    [("children", 2, 1 + 1), ("children", 3, 1 + 2), ("codebook", 2, 1 + 4)],
)
def test_forced_suffixes_cost_no_pass(
    make_bench, histories, beam_width, normalize, num_free, num_passes
):
    bench = make_bench(sids=sparse_sids(num_free), sizes=(7,) * 5)
    passes = []
    bench.model.transformer.register_forward_hook(lambda *_: passes.append(1))
    got = bench.search(histories, beam_width, normalize=normalize)
    assert len(passes) <= num_passes
    assert beam_width < 40 or len(passes) == num_passes
    scores = bench.scores(histories, normalize=normalize)
    for i in range(len(histories)):
        nodes = got.nodes[i, : int(got.num_valid[i])].numpy()
        _, rows = bench.trie.item_trie.leaf_rows(nodes)
        torch.testing.assert_close(got.scores[i, : len(nodes)], scores[i, rows])
        codes = bench.trie.token[-1][got.nodes[i, : len(nodes)]]
        assert got.tokens[i, : len(nodes)].tolist() == codes.tolist()
        if beam_width >= 40:
            assert sorted(rows.tolist()) == list(range(40))


@pytest.mark.parametrize("beam_width", [1, 3, 20, 63])
@pytest.mark.parametrize("num_kv_heads", [2, 4])
def test_beams_with_a_forced_suffix_are_not_run(make_bench, histories, beam_width, num_kv_heads):
    bench = make_bench(num_items=60, sizes=(7,) * 5, num_kv_heads=num_kv_heads)
    num_run = []
    hook = bench.model.transformer.register_forward_hook(
        lambda _, x, out: num_run.append(len(x[0]))
    )
    got = bench.search(histories, beam_width, normalize="children")
    children, num_run[:] = num_run[1:], []  # without the prefill
    bench.search(histories, beam_width)
    vocab = num_run[1:]
    hook.remove()
    assert all(a <= b for a, b in zip(children, vocab, strict=False))
    assert sum(children) <= sum(vocab) / 2 or beam_width == 1
    for i, history in enumerate(histories):
        want = naive_beam_search(bench, history, beam_width, normalize="children")
        n = int(want.num_valid[0])
        assert int(got.num_valid[i]) == n
        assert sorted(got.nodes[i, :n].tolist()) == sorted(want.nodes[0].tolist())
        torch.testing.assert_close(got.scores[i, :n], want.scores[0], atol=1e-4, rtol=1e-4)


def test_forced_suffixes_of_the_items_that_are_left(make_bench):
    bench = make_bench(sids=sparse_sids(2), sizes=(7,) * 5)
    item_filter = ItemFilter(bench.trie, [None, None], [np.arange(37), np.array([5])])
    got = bench.search([[1, 2], [3]], 20, normalize="children", item_filter=item_filter)
    _, rows = bench.trie.item_trie.leaf_rows(got.nodes[0].numpy())
    assert sorted(rows.tolist()) == [37, 38, 39]
    assert got.num_valid.tolist() == [3, 20]
    assert got.tokens[0, 3:].tolist() == got.nodes[0, 3:].tolist() == [-1] * 17


def filtered(bench, left):
    """All items, of which a request may be given those that are left."""
    return bench.trie, ItemFilter(
        bench.trie, [RowSet.from_rows(bench.trie.item_trie, left)] * 2, [left[:0]] * 2
    )


def live(bench, left, gone=None):
    """Half of the items in the base, half in the delta, and then only those that are left."""
    rows = np.arange(len(bench.sids))
    trie = LiveTrie(bench.sids[::2].copy(), rows[::2].copy(), list(bench.trie.codebook_sizes))
    trie.add(bench.sids[1::2].copy(), rows[1::2].copy())
    trie.remove(np.setdiff1d(rows, left) if gone is None else gone)
    return SearchTrie(trie.snapshot()), None


def live_and_filtered(bench, left):
    """Some of the others removed, some excluded."""
    others = np.setdiff1d(np.arange(len(bench.sids)), left)
    trie, _ = live(bench, left, gone=others[::2].copy())
    excluded = trie.item_trie.rows_of(others[1::2].copy())
    return trie, ItemFilter(trie, [None, None], [excluded] * 2)


@pytest.mark.parametrize("beam_width", [1, 7, 63])
@pytest.mark.parametrize(
    ("of_left", "backend"),
    [(filtered, "cpp"), (filtered, "torch"), (live, "cpp"), (live_and_filtered, "cpp")],
)
@pytest.mark.parametrize("num_free", [1, 2, None])
def test_what_is_left_of_a_crowded_catalogue(make_bench, of_left, backend, beam_width, num_free):
    """Prefixes with one item left are not run, however many items there are or were."""
    bench = make_bench(num_items=400, sizes=(7,) * 5)
    left = np.arange(0, 400, 5)
    if num_free is not None:  # from these many codes on, each prefix has but one way
        left = np.unique(bench.sids[:, :num_free], axis=0, return_index=True)[1]
    trie, item_filter = of_left(bench, left)
    fresh = TrieArrays(ItemTrie(bench.sids[left], [7] * 5))
    num_run, histories = [], [[1, 2], [3]]
    options = {"backend": backend, "trie": trie, "item_filter": item_filter}
    hook = bench.model.transformer.register_forward_hook(
        lambda _, x, out: num_run.append(len(x[0]))
    )
    got = bench.search(histories, beam_width, normalize="children", **options)
    children, num_run[:] = num_run[:], []
    bench.search(histories, beam_width, normalize="codebook", **options)
    hook.remove()
    assert len(num_run) == 5
    if num_free is not None:
        assert len(children) == num_free
    assert len(children) < 5 or sum(children) < sum(num_run) or beam_width == 1
    for i, history in enumerate(histories):
        want = naive_beam_search(bench, history, beam_width, "children", fresh)
        n = int(want.num_valid[0])
        assert int(got.num_valid[i]) == n
        torch.testing.assert_close(got.scores[i, :n], want.scores[0], atol=1e-4, rtol=1e-4)
        items = first_items(trie, got.nodes[i, :n])
        assert got.tokens[i, :n].tolist() == bench.sids[items, -1].tolist()
        want_items = left[first_items(fresh, want.nodes[0])]
        assert sorted(bench.sids[items].tolist()) == sorted(bench.sids[want_items].tolist())
        assert (torch.stack(got[1:4])[:, i, n:] == -1).all()


def first_items(trie, leaves):
    """One of the items of each leaf, as numbered when the trie was made."""
    offsets, rows = trie.item_trie.leaf_rows(leaves.numpy())
    rows = rows[offsets[:-1]]
    return rows if isinstance(trie.item_trie, ItemTrie) else trie.item_trie.item_ids(rows)
