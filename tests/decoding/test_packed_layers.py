import pytest
import torch

from store_engine.decoding.packed_layers import computes_in_bfloat16, pack_layers
from store_engine.model.attention import PackedSequences

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 0.1}


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("num_tokens", [1, 63, 1000])
def test_computes_what_the_model_does(make_model, dtype, num_tokens):
    model = make_model().to(dtype)
    packed = pack_layers(model)
    sequences = PackedSequences(torch.tensor([0, num_tokens]))
    x = torch.randn(num_tokens, 32, dtype=dtype)
    with torch.inference_mode():
        want, got = (m.transformer(x, sequences.positions, sequences) for m in (model, packed))
    assert got.dtype == dtype
    # in bfloat16 both are rounded, in different places
    torch.testing.assert_close(got, want, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


def test_the_model_stays_as_it_was_and_shares_the_rest(make_model):
    model = make_model()
    names = set(model.state_dict())
    packed = pack_layers(model)
    if packed is model:
        pytest.skip("there is nothing to pack on this machine")
    assert set(model.state_dict()) == names
    assert packed.code_embedding.weight is model.code_embedding.weight
    assert (
        packed.transformer.blocks[0].mlp_norm.weight is model.transformer.blocks[0].mlp_norm.weight
    )
    before = model.transformer.blocks[0].mlp.down_proj.weight.clone()
    packed.transformer.norm.weight.fill_(2)
    assert model.transformer.norm.weight.eq(2).all()
    assert torch.equal(model.transformer.blocks[0].mlp.down_proj.weight, before)


def test_a_dtype_the_cpu_does_not_compute_in_is_left_alone(make_model, monkeypatch):
    assert pack_layers(model := make_model().half()) is model
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: False)
    assert not computes_in_bfloat16()
    assert pack_layers(model := make_model().bfloat16()) is model
