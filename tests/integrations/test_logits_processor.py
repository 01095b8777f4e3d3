import numpy as np
import pytest
import torch
from item_engines import ItemCase

from store_engine._C import ItemTrie, LiveTrie
from store_engine.catalog.trie_arrays import SnapshotTrie, TrieArrays
from store_engine.decoding.backends import CppBackend, SearchSpace
from store_engine.decoding.beam_search import beam_search
from store_engine.decoding.engine import Engine
from store_engine.errors import InputError
from store_engine.inference.decoding_model import prepare_for_decoding
from store_engine.inference.kv_cache import KVCache
from store_engine.inference.prefill_batch import PrefillBatch
from store_engine.integrations.huggingface import export_huggingface
from store_engine.integrations.logits_processor import TrieLogitsProcessor, prefix_allowed_tokens_fn
from store_engine.integrations.trie_beam_search import TrieBeamSearch

TEXT, PAD, BOS = 20, 0, 1
SIDS = np.array([[2, 0], [0, 1], [2, 3], [0, 0]], dtype=np.int32)  # sizes 3, 4; ids from 20, 23


@pytest.fixture
def small():
    return ItemTrie(SIDS, [3, 4])


@pytest.mark.parametrize(
    ("tokens", "allowed"),
    [
        ([1], [20, 22]),  # after text: the first level
        ([1, 22], [23, 26]),
        ([1, 20], [23, 24]),
        ([1, 22, 26], [20, 22]),  # after a whole SID: the next item begins
        ([1, 22, 26, 20], [23, 24]),
        ([1, 21], []),  # no item begins with code 1
    ],
)
def test_allowed_tokens(small, tokens, allowed):
    tokens = torch.tensor(tokens)
    assert prefix_allowed_tokens_fn(small, TEXT)(0, tokens) == allowed
    scores = TrieLogitsProcessor(small, TEXT)(tokens[None], torch.randn(1, 27))
    assert (scores[0] > -torch.inf).nonzero().flatten().tolist() == allowed


def test_sequences_of_one_call_may_stand_at_different_levels(small):
    tokens = torch.tensor([[1, 22], [22, 23], [1, 21]])
    logits = torch.randn(3, 27)
    scores = TrieLogitsProcessor(small, TEXT)(tokens, logits)
    first, second = logits[1, 20:23].log_softmax(0), logits[0, 23:27].log_softmax(0)
    torch.testing.assert_close(scores[0, [23, 26]], second[[0, 3]])
    torch.testing.assert_close(scores[1, [20, 22]], first[[0, 2]])
    assert (scores > -torch.inf).sum(1).tolist() == [2, 2, 0]


@pytest.mark.parametrize("beam_width", [1, 5, 30])
def test_generate_equals_our_beam_search(make_model, sids, item_trie, beam_width):
    model = make_model()
    trie = TrieArrays(item_trie)
    item_tokens = model.vocabulary.to_id_tensor(torch.from_numpy(sids).long())
    histories = [np.array([3, 1, 4]), np.array([5]), np.array([], dtype=np.int64)]
    batch = PrefillBatch.from_histories(histories, item_tokens, BOS)
    cache = KVCache(model.config, torch.device("cpu"), torch.float32)
    decoder, space = prepare_for_decoding(model), SearchSpace(trie)
    beams = beam_search(decoder, space, cache, batch, beam_width, CppBackend())

    prompts = [[BOS, *item_tokens[rows].flatten().tolist()] for rows in histories]
    longest = max(map(len, prompts))
    padded = torch.tensor([[PAD] * (longest - len(p)) + p for p in prompts])
    asked = {
        "attention_mask": (padded != PAD).long(),
        "max_new_tokens": 3,
        "num_beams": beam_width,
        "num_return_sequences": beam_width,
        "pad_token_id": PAD,
        "return_dict_in_generate": True,
    }
    out = export_huggingface(model).generate(
        padded,
        **asked,
        do_sample=False,
        length_penalty=0.0,
        output_scores=True,
        logits_processor=[TrieLogitsProcessor(item_trie, TEXT)],
    )
    for attention in ("sdpa", "eager"):
        exported = export_huggingface(model)
        exported.set_attn_implementation(attention)
        again = exported.generate(padded, **asked, custom_generate=TrieBeamSearch(item_trie, TEXT))
        assert torch.equal(again.sequences, out.sequences)
        torch.testing.assert_close(again.sequences_scores.view(3, -1), beams.scores)
    codes = out.sequences[:, longest:] - torch.tensor([20, 26, 31])
    assert trie.find(codes).view(3, -1).tolist() == beams.nodes.tolist()
    if beam_width > 1:  # greedy search has no sequences_scores
        scores = out.sequences_scores.view(3, -1)
        torch.testing.assert_close(scores, beams.scores, atol=1e-4, rtol=1e-4)


def test_fewer_sids_than_beams_end_in_pads(make_model, small):
    exported = export_huggingface(make_model((3, 4)))
    prompts = torch.tensor([[1, 22, 26]])
    asked = {"max_new_tokens": 2, "num_beams": 6, "num_return_sequences": 6, "pad_token_id": 9}
    out = exported.generate(prompts, custom_generate=TrieBeamSearch(small, TEXT), **asked)
    written = out[:, 3:].tolist()
    assert sorted(written[:4]) == [[20, 23], [20, 24], [22, 23], [22, 26]]
    assert written[4:] == [[9, 9]] * 2
    with pytest.raises(InputError, match="max_new_tokens must be at least 2, a SID's, got 1"):
        asked["max_new_tokens"] = 1
        exported.generate(prompts, custom_generate=TrieBeamSearch(small, TEXT), **asked)


def test_an_attention_that_takes_no_mask_is_refused(make_model, small):
    exported = export_huggingface(make_model((3, 4)))
    exported.config._attn_implementation = "flash_attention_2"
    with pytest.raises(InputError, match=r"needs .* 'sdpa' or 'eager', got 'flash_attention_2'"):
        exported.generate(
            torch.tensor([[1]]), max_new_tokens=2, custom_generate=TrieBeamSearch(small, TEXT)
        )


def tries():
    live = LiveTrie(SIDS, np.arange(4) + 10, [3, 4])
    snapshot = live.snapshot()
    trie = ItemTrie(SIDS, [3, 4])
    return {
        "ItemTrie": trie,
        "an engine's": TrieArrays(trie),
        "a changed engine's": SnapshotTrie(snapshot),
        "Snapshot": snapshot,
        "LiveTrie": live,
    }


@pytest.mark.parametrize("form", tries())
def test_every_form_of_a_trie_is_taken(small, form):
    tokens, scores = torch.tensor([[1, 22]]), torch.randn(1, 27)
    trie = tries()[form]
    found = TrieLogitsProcessor(trie, TEXT)(tokens, scores)
    assert torch.equal(found, TrieLogitsProcessor(small, TEXT)(tokens, scores))
    assert prefix_allowed_tokens_fn(trie, TEXT)(0, tokens[0]) == [23, 26]


def test_an_engine_is_taken_as_it_is_now(make_engine):
    engine = make_engine()
    lone = next(row for row in range(60) if (engine.sids[:, 0] == engine.sids[row, 0]).sum() > 1)
    first = int(engine.sids[lone, 0])
    tokens, scores = torch.tensor([[1]]), torch.randn(1, 38)
    before = TrieLogitsProcessor(engine)
    gone = [f"item {row}" for row in np.flatnonzero(engine.sids[:, 0] == first)]
    engine.remove_items(gone)
    for catalog in (engine, engine.trie, engine.trie.item_trie):
        after = TrieLogitsProcessor(catalog, TEXT)(tokens, scores)
        assert torch.isinf(after[0, TEXT + first])
        assert prefix_allowed_tokens_fn(catalog, TEXT)(0, tokens[0]) == [
            TEXT + code for code in range(6) if code != first
        ]
    assert torch.isfinite(before(tokens, scores)[0, TEXT + first])


@pytest.mark.parametrize(
    "form",
    [
        ("item", "codes", "transformer", False),
        ("code", "items", "heads", False),
        ("code", "codes", "transformer", True),
    ],
)
def test_an_engine_that_does_not_write_codes_alone_is_refused(form):
    engine = ItemCase(*form).engine()
    with pytest.raises(InputError, match="reads and writes codes"):
        TrieLogitsProcessor(engine)


def test_a_run_and_its_export_say_their_vocabulary_themselves(run_dir, tmp_path):
    from store_engine.integrations.export_run import export_run
    from store_engine.runs.run import load_run

    export_run(load_run(run_dir), tmp_path / "exported")
    engine = Engine.load(run_dir)
    size = engine.model.text_vocab_size
    tokens = torch.tensor([[0, 0, 1], [0, 1, size + int(engine.sids[0, 0])]])
    scores = torch.randn(2, len(engine.model.vocabulary))
    want = TrieLogitsProcessor(engine)(tokens, scores)
    assert not want.isinf().all(1).any()
    for folder in (run_dir, str(run_dir), tmp_path / "exported"):
        assert torch.equal(TrieLogitsProcessor(folder)(tokens, scores), want)


def test_padded_vocabularies_and_half_precision(small):
    tokens, scores = torch.tensor([[1, 22], [1, 20]]), torch.randn(2, 64).bfloat16()
    found = TrieLogitsProcessor(small, TEXT)(tokens, scores)
    assert found.dtype == torch.bfloat16
    allowed = [(row > -torch.inf).nonzero()[:, 0].tolist() for row in found]
    assert allowed == [[23, 26], [23, 24]]


def test_a_model_of_another_vocabulary_is_refused(make_model, small):
    with pytest.raises(ValueError, match="at least 27 tokens, text and codes, got 26"):
        TrieLogitsProcessor(small, TEXT)(torch.tensor([[1]]), torch.randn(1, 26))
    exported = export_huggingface(make_model((3, 4)))
    with pytest.raises(ValueError, match="at least 28 tokens, text and codes, got 27"):
        exported.generate(
            torch.tensor([[1]]), max_new_tokens=2, custom_generate=TrieBeamSearch(small, TEXT + 1)
        )


@pytest.mark.parametrize("make", [TrieLogitsProcessor, prefix_allowed_tokens_fn])
@pytest.mark.parametrize("trie", [None, b"trie.bin", SIDS], ids=["None", "bytes", "sids"])
def test_what_is_no_trie(make, trie):
    with pytest.raises(
        TypeError, match="must be an Engine, its trie, an ItemTrie or a folder, got"
    ):
        make(trie, TEXT)


@pytest.mark.parametrize("size", ["20", 20.0, None, True, 0, -1])
def test_what_is_no_vocabulary_size(small, size):
    with pytest.raises((TypeError, ValueError), match="text_vocab_size must be"):
        TrieLogitsProcessor(small, size)
