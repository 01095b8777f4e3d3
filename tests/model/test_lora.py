import pytest
import torch

from store_engine.config import ModelConfig, TrainConfig, load_config
from store_engine.errors import InputError
from store_engine.model.attention import PackedSequences
from store_engine.model.lora import add_lora, merge_lora
from store_engine.model.store_model import StoreModel
from store_engine.sid.dense_tokenizer import DenseTokenizer

pytest.importorskip("peft")

MODEL = ModelConfig(
    hidden_size=32, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8, intermediate_size=48,
    attention_bias="qkv", dropout=0.0,
)  # fmt: skip
LORA = TrainConfig(lora_rank=4, lora_alpha=12)
EVERY_TARGET = {"qkv_proj", "o_proj", "gate_up_proj", "down_proj"}


def outputs(model):
    tokens = torch.tensor([1, 11, 17, 12, 4, 9])
    sequences = PackedSequences(torch.tensor([0, 4, 6]))
    return model.hidden_states(model.embed(tokens), sequences)


def adapted(train=LORA):
    """A model whose factors have been moved away from their start."""
    model = StoreModel(MODEL, 11, (5, 3))
    add_lora(model, train)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def test_a_fresh_adapter_changes_nothing():
    model = StoreModel(MODEL, 11, (5, 3))
    before = outputs(model)
    add_lora(model, LORA)
    assert torch.equal(outputs(model), before)


@pytest.mark.parametrize("targets", [("qkv_proj",), tuple(sorted(EVERY_TARGET))], ids=len)
def test_merged_outputs_equal_unmerged(targets):
    train = TrainConfig(lora_rank=4, lora_alpha=12, lora_targets=targets)
    model, plain = adapted(train), StoreModel(MODEL, 11, (5, 3))
    merged = merge_lora(dict(model.named_parameters()), train)
    plain.load_state_dict(merged, strict=False)  # a tied head is one parameter under two names
    assert set(merged) == {name for name, _ in plain.named_parameters()}
    torch.testing.assert_close(outputs(plain), outputs(model), atol=1e-5, rtol=1e-5)
    base = outputs(StoreModel(MODEL, 11, (5, 3)))
    assert (outputs(plain) - base).abs().max() > 0.1


def test_merging_equals_pefts():
    from peft.tuners.lora import LoraLayer

    model = adapted()
    merged = merge_lora(dict(model.named_parameters()), LORA)
    for name, layer in list(model.named_modules()):
        if isinstance(layer, LoraLayer):
            layer.merge()
            want = layer.get_base_layer().weight
            torch.testing.assert_close(merged[f"{name}.weight"], want, atol=1e-6, rtol=1e-6)


def test_without_factors_nothing_is_merged():
    weights = dict(StoreModel(MODEL, 11).named_parameters())
    assert merge_lora(weights, TrainConfig()) == weights


@pytest.mark.parametrize("targets", [("o_proj",), tuple(sorted(EVERY_TARGET))], ids=len)
def test_what_is_trained(targets):
    train = TrainConfig(lora_rank=4, lora_targets=targets)
    tokenizer = DenseTokenizer(StoreModel(MODEL, 11), 2)
    recommender = StoreModel(MODEL, 11, (5, 3))
    for module, others in (
        (tokenizer, {"palette.weight"}),
        (recommender, {"code_embedding.weight", "code_head.weight"}),
    ):
        add_lora(module, train)
        trained = {name for name, p in module.named_parameters() if p.requires_grad}
        factors = {name for name in trained if "lora_" in name}
        assert trained - factors == others
        assert {name.split(".lora_")[0].rpartition(".")[2] for name in factors} == set(targets)


def test_what_lora_needs():
    with pytest.raises(InputError, match=r"lora_rank needs a model\.backbone"):
        load_config(None, ["train.lora_rank=8"])
    with pytest.raises(InputError, match="must be one of qkv_proj, o_proj"):
        load_config(None, ['train.lora_targets=["q_proj"]'])
