from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from store_engine.inference.kv_cache import KVCache
from store_engine.inference.prefill import prefill
from store_engine.inference.prefill_batch import PrefillBatch
from store_engine.inference.prefix_cache import PrefixCache

MIB = 2**20
TOKEN_BYTES = 2 * 2 * 2 * 8 * 4  # 2 layers, keys and values, 2 heads, 8 numbers of 4 bytes
KEY_BYTES = 32  # a block is found by the SHA-256 of all tokens up to its end


@pytest.fixture
def run(make_bench):
    """Prefills histories as the searches do, and says how many tokens that took."""
    bench = make_bench()

    class Run:
        def __init__(self, max_mib):
            self.prefixes = PrefixCache(max_mib, bench.trie.num_levels)
            self.cache = KVCache(
                bench.model.config, torch.device("cpu"), torch.float32, self.prefixes
            )

        def __call__(self, *histories):
            batch = bench.batch(histories)
            num_tokens = []
            layer = bench.model.transformer.blocks[0]
            hook = layer.register_forward_hook(lambda _, args, out: num_tokens.append(len(args[0])))
            self.cache.start(batch.lengths, 0)
            hidden = prefill(bench.decoder, self.cache, batch)
            hook.remove()
            bench.cache.start(batch.lengths, 0)
            want = prefill(bench.decoder, bench.cache, batch)
            torch.testing.assert_close(hidden, want, atol=1e-5, rtol=1e-5)
            return num_tokens[0]

    return Run


def test_only_what_is_new_is_computed(run):
    recompute = run(1)
    assert recompute([3, 1, 4]) == 10  # <bos> and three codes per item
    assert recompute([3, 1, 4, 1, 5]) == 6  # the user's next request
    assert recompute([3, 1, 4]) == 1  # the same again: the state at the last token
    assert recompute([3, 1, 9]) == 3  # another user, who begins alike
    assert recompute([2, 3, 1, 4]) == 13  # not from its beginning
    assert recompute([]) == 1
    assert recompute([3, 1, 4, 1, 5, 9], [], [3], [8, 8], [3, 1]) == 3 + 1 + 1 + 7 + 1


@pytest.mark.parametrize(("position", "num_known"), [(0, 0), (1, 0), (3, 0), (4, 4), (30, 28)])
def test_nothing_is_shared_from_the_first_different_token_on(position, num_known):
    prefixes = PrefixCache(1, 3)
    tokens, lengths = torch.arange(31), torch.tensor([31])  # <bos> and ten items
    written = torch.randn(2, 2, 1, 31, 2, 8)
    _, hashes = prefixes.match_prefix(PrefillBatch(tokens, lengths), torch.zeros_like(written))
    prefixes.insert(hashes, written)
    tokens[position] += 100
    layers = torch.zeros_like(written)
    assert prefixes.match_prefix(PrefillBatch(tokens, lengths), layers).num_known == num_known
    assert torch.equal(layers[:, :, :, :num_known], written[:, :, :, :num_known])
    assert not layers[:, :, :, num_known:].any()


@pytest.mark.parametrize("num_levels", [1, 2, 5])
def test_hashes_are_as_many_as_items(num_levels):
    lengths = torch.tensor([1 + 7 * num_levels, 1, 1 + num_levels])
    batch = PrefillBatch(torch.ones(int(lengths.sum()), dtype=torch.int64), lengths)
    layers = torch.zeros(1, 2, 3, int(lengths.max()), 1, 1)
    _, hashes = PrefixCache(1, num_levels).match_prefix(batch, layers)
    assert [len(own) for own in hashes] == [7, 0, 1]
    assert hashes[0][0] == hashes[2][0]
    assert len(set(hashes[0])) == 7  # the same item, but not the same place


@pytest.mark.parametrize("num_items", [1, 50])
def test_bytes_grow_linearly_with_a_history(num_items, run):
    recompute = run(1)
    recompute(list(range(num_items)))
    want = (1 + 3 * num_items) * TOKEN_BYTES + num_items * KEY_BYTES
    assert recompute.prefixes.nbytes == want


def test_equal_histories_of_one_batch(run):
    recompute = run(1)
    assert recompute([1, 2], [1, 2]) == 14
    assert recompute([1, 2], [1, 2, 3]) == 1 + 3
    assert recompute.prefixes.nbytes == 10 * TOKEN_BYTES + 3 * KEY_BYTES  # stored once


def test_memory_is_bounded_and_the_oldest_goes_first(run):
    two = 2 * (7 * TOKEN_BYTES + 2 * KEY_BYTES)
    recompute = run(two / MIB)  # a third item takes the place of one other
    recompute([1, 2])
    recompute([3, 4])
    assert recompute.prefixes.nbytes == two
    assert recompute([1, 2, 5]) == 3  # used again, so 3, 4 is the oldest now
    assert recompute.prefixes.nbytes == two
    assert recompute([1, 2, 5]) == 1
    assert recompute([3, 4]) == 3  # of its blocks the last went first


def test_a_history_that_does_not_fit(run):
    recompute = run(10 * TOKEN_BYTES / MIB)
    for _ in range(2):
        recompute(list(range(20)))
        assert recompute.prefixes.nbytes <= 10 * TOKEN_BYTES
    assert recompute(list(range(20))) == 61 - 7  # its first two items


def test_refuses_no_memory():
    with pytest.raises(ValueError, match="max_mib must be positive, got -1"):
        PrefixCache(-1, 3)


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("normalize", ["codebook", "children"])
def test_recommendations_are_the_same(make_engine, exact, normalize):
    plain = make_engine(normalize=normalize)
    torch.manual_seed(0)  # the same weights
    engine = make_engine(normalize=normalize, prefix_cache_mib=1)
    rng = np.random.default_rng(0)
    users = [rng.integers(0, 60, 12).tolist() for _ in range(5)]
    for length in (0, 2, 3, 3, 7, 9, 12):  # max_history=8: from 9 on they begin elsewhere
        requests = [user[:length] for user in users] + [[3, 1, 4]]
        want_rows, want = plain.recommend_rows(requests, 10, exact=exact)
        rows, logprobs = engine.recommend_rows(requests, 10, exact=exact)
        np.testing.assert_array_equal(rows, want_rows)
        np.testing.assert_allclose(logprobs, want, atol=1e-5)


def test_threads_share_it(make_engine):
    engine = make_engine(prefix_cache_mib=0.02)  # room for a part, so blocks come and go
    jobs = [[[i, i + 1, i + 2][: 1 + j], [i, 30]] for i in range(8) for j in range(3)] * 3
    torch.manual_seed(0)  # the same weights
    plain = make_engine()
    want = [plain.recommend_rows(job, 8)[0].tolist() for job in jobs]
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(lambda job: engine.recommend_rows(job, 8)[0].tolist(), jobs))
    assert got == want
