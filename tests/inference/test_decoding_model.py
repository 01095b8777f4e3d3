import pytest
import torch

from store_engine.errors import InputError
from store_engine.inference.decoding_model import DecodingModel, check_finite, prepare_for_decoding


@pytest.mark.parametrize("make", [DecodingModel.for_torch, DecodingModel.for_cpu])
def test_embeddings_and_heads_are_those_of_the_model(make_model, make):
    model = make_model()
    form, hidden = make(model), torch.randn(3, 2, 32)
    tokens = torch.arange(20 + 18)
    assert torch.equal(form.embed(tokens), model.embed(tokens))
    for level, size in enumerate(model.codebook_sizes):
        first = model.vocabulary.level_offsets[level]
        codes = torch.arange(size)
        assert torch.equal(form.embed_codes(codes, level), model.embed(first + codes))
        got = form.level_logits(hidden.flatten(0, 1), level)
        torch.testing.assert_close(got, model.level_logits(hidden.flatten(0, 1), level))
    assert form.config is model.config
    assert form.vocabulary is model.vocabulary
    assert (form.device.type, form.dtype) == ("cpu", torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_a_cpu_model_is_packed_where_there_are_kernels(make_model, dtype):
    model = make_model().to(dtype).train()
    form = prepare_for_decoding(model)
    is_packed = form.transformer is not model.transformer
    assert is_packed == (dtype in (torch.float32, torch.bfloat16))
    assert not model.training


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_every_weight_must_be_finite(make_model, dtype, bad):
    model = make_model(qk_norm=True, attention_bias="all").to(dtype)
    check_finite(model)
    for name, weight in model.named_parameters():
        healthy = weight.flatten()[-1].clone()
        weight.flatten()[-1] = bad
        with pytest.raises(InputError, match=rf"^weight {name} holds NaN or infinity: 1 of"):
            check_finite(model)
        weight.flatten()[-1] = healthy
    check_finite(model)


def test_a_dtype_too_narrow_for_the_weights(make_model):
    model = make_model()
    model.text_embedding.weight[0, 0] = 1e5
    check_finite(model)
    with pytest.raises(InputError, match="text_embedding"):
        check_finite(model.half())
