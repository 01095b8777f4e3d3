import pytest
import torch

from store_engine.decoding.beam import beam_search
from store_engine.decoding.beam_step import Beams, beam_step, root_beams
from store_engine.decoding.exact import score_catalog
from store_engine.model.attention import PackedSequences


def naive_beam_search(bench, history, beam_width):
    """Beam search that runs every beam's whole sequence again at every level: no cache at all."""
    context, model = bench.tokens(history), bench.model
    beams, prefixes = root_beams(1, torch.device("cpu")), [context]
    for level in range(bench.trie.num_levels):
        states = []
        for tokens in prefixes:
            sequence = PackedSequences(torch.tensor([0, len(tokens)]))
            states.append(model.hidden_states(model.embed(tokens), sequence)[-1])
        logits = model.level_logits(torch.stack(states), level)[None]
        beams = beam_step(bench.trie, level, logits, beams, beam_width)
        n = int(beams.num_valid[0])
        beams = Beams(*(x[:, :n] for x in beams[:4]), beams.num_valid)
        offset = model.text_vocab_size + model.code_offsets[level]
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
    contexts = bench.contexts(histories)
    got = beam_search(bench.model, bench.trie, bench.cache, contexts, beam_width, backend=backend)
    for i, history in enumerate(histories):
        want = naive_beam_search(bench, history, beam_width)
        n = int(want.num_valid[0])
        assert int(got.num_valid[i]) == n
        assert got.nodes[i, :n].tolist() == want.nodes[0].tolist()
        torch.testing.assert_close(got.scores[i, :n], want.scores[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("normalize", ["vocab", "children"])
def test_a_wide_beam_ranks_the_whole_catalogue(make_bench, histories, normalize):
    bench = make_bench(num_items=200)
    contexts = bench.contexts(histories)
    args = (bench.model, bench.trie, bench.cache, contexts)
    beams = beam_search(*args, 1000, normalize=normalize)
    scores = score_catalog(*args, normalize=normalize)
    assert beams.num_valid.tolist() == [bench.trie.level_sizes[-1]] * len(histories)
    for i in range(len(histories)):
        _, rows = bench.trie.item_trie.leaf_rows(beams.nodes[i].numpy())
        ranked = scores[i, torch.from_numpy(rows)]
        assert (ranked.diff() <= 1e-5).all()  # so no item was passed over
        assert sorted(rows.tolist()) == list(range(200))


def test_batch_equals_one_by_one(make_bench, histories):
    bench = make_bench()
    search = (bench.model, bench.trie, bench.cache)
    together = beam_search(*search, bench.contexts(histories), 7)
    for i, history in enumerate(histories):
        alone = beam_search(*search, bench.contexts([history]), 7)
        assert alone.nodes[0].tolist() == together.nodes[i].tolist()
        torch.testing.assert_close(alone.scores[0], together.scores[i], atol=1e-5, rtol=1e-5)


def test_a_used_cache_changes_nothing(make_bench, histories):
    bench = make_bench()
    want = beam_search(bench.model, bench.trie, bench.cache, bench.contexts([[5, 6]]), 9)
    beam_search(bench.model, bench.trie, bench.cache, bench.contexts(histories), 30)
    held = bench.cache.nbytes
    again = beam_search(bench.model, bench.trie, bench.cache, bench.contexts([[5, 6]]), 9)
    assert torch.equal(want.scores, again.scores)
    assert torch.equal(want.nodes, again.nodes)
    assert bench.cache.nbytes == held


def test_fewer_items_than_beams(make_bench):
    bench = make_bench(num_items=3)
    beams = beam_search(bench.model, bench.trie, bench.cache, bench.contexts([[0]]), 20)
    assert beams.nodes.tolist() == [sorted([0, 1, 2], key=beams.nodes[0].tolist().index)]
