import copy

import pytest
import torch

from store_engine.inference.cache_attention import TreeAttention
from store_engine.inference.decoding_model import DecodingModel, prepare_for_decoding
from store_engine.inference.kv_cache import KVCache
from store_engine.inference.prefill import prefill
from store_engine.inference.prefill_batch import PrefillBatch

LENGTHS = [1, 63, 100]
SHAPES = {
    "llama": {},
    "one head": {"num_heads": 1, "num_kv_heads": 1, "head_dim": 20},
    "qwen3": {"qk_norm": True},
    "qwen2": {"attention_bias": "qkv"},
    "long positions": {"rope_theta": 500000.0},
}


def run_both_kinds(model, dtype):
    """The states of a prefill, then of two blocks of the beam tree, and the cache."""
    cache = KVCache(model.config, torch.device("cpu"), dtype)
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor(LENGTHS)
    tokens = torch.randint(model.source.text_vocab_size + 18, (sum(LENGTHS),), generator=generator)
    cache.start(lengths, num_tree_slots=7)
    states = [prefill(model, cache, PrefillBatch(tokens, lengths))]
    first = torch.arange(3).expand(3, -1)[:, :, None]
    second = torch.tensor([[0, 3], [2, 4], [0, 5], [1, 6]]).expand(3, -1, -1)
    for level, (ancestors, begin) in enumerate([(first, 0), (second, 3)]):
        width = ancestors.shape[1]
        x = torch.randn(3 * width, model.config.hidden_size, generator=generator)
        x = x.bfloat16().to(dtype)
        positions = (lengths + level).repeat_interleave(width)
        states.append(model.transformer(x, positions, TreeAttention(cache, ancestors, begin)))
    return [*states, model.level_logits(states[0], 1), cache.layers]


@pytest.mark.parametrize("is_packed", [True, False], ids=["packed", "plain"])
@pytest.mark.parametrize("shape", SHAPES)
def test_computes_what_the_model_does(make_model, shape, is_packed, monkeypatch):
    model = make_model(**SHAPES[shape])
    if not is_packed:
        monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: "DEFAULT")
    forms = DecodingModel.for_torch(model), prepare_for_decoding(model)
    assert forms[1].transformer is not model.transformer
    with torch.inference_mode():
        for want, got in zip(*(run_both_kinds(form, torch.float32) for form in forms), strict=True):
            torch.testing.assert_close(got, want, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("is_packed", [True, False], ids=["packed", "plain"])
@pytest.mark.parametrize("shape", SHAPES)
def test_is_as_exact_in_bfloat16_as_the_model(make_model, shape, is_packed, monkeypatch):
    model = make_model(**SHAPES[shape]).bfloat16()
    if not is_packed:
        monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: "DEFAULT")
    with torch.inference_mode():
        exact = DecodingModel.for_torch(copy.deepcopy(model).float())
        truth = run_both_kinds(exact, torch.float32)
        of_model, of_fast = (
            run_both_kinds(form, torch.bfloat16)
            for form in (DecodingModel.for_torch(model), prepare_for_decoding(model))
        )
    for want, theirs, ours in zip(truth, of_model, of_fast, strict=True):
        assert ours.dtype == torch.bfloat16
        error, allowed = ((x.float() - want).square().mean().sqrt() for x in (ours, theirs))
        assert error <= 1.5 * allowed + 1e-3


def test_the_model_stays_as_it_was_and_shares_the_embeddings(make_model):
    model = make_model()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    fast = prepare_for_decoding(model)
    assert fast.source is model
    with torch.inference_mode():
        run_both_kinds(fast, torch.float32)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


def test_a_dtype_the_core_has_no_kernels_for_is_left_alone(make_model):
    model = make_model().half()
    assert prepare_for_decoding(model).transformer is model.transformer
