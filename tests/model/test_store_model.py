import dataclasses

import pytest
import torch
import torch.nn.functional as F

from store_engine.config import ModelConfig
from store_engine.errors import InputError
from store_engine.model.attention import PackedSequences
from store_engine.model.store_model import StoreModel
from store_engine.model.targets import IGNORE
from store_engine.model.weights import load_weights, save_weights

CONFIG = ModelConfig(
    hidden_size=32, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8, intermediate_size=48,
    dropout=0.0,
)  # fmt: skip
TEXT, SIZES = 11, (5, 3)


def batch():
    tokens = torch.tensor([1, 11, 17, 12, 4, 9])
    targets = torch.tensor([11, 17, IGNORE, 16, 9, 3])  # codes of both levels, and text
    return tokens, PackedSequences(torch.tensor([0, 4, 6])), targets


@pytest.mark.parametrize("tie_text_head", [True, False])
def test_losses_run_over_each_targets_own_sub_vocabulary(tie_text_head):
    config = dataclasses.replace(CONFIG, tie_text_head=tie_text_head)
    model = StoreModel(config, TEXT, SIZES)
    tokens, sequences, targets = batch()
    losses = model(tokens, sequences, targets)

    hidden = model.hidden_states(model.embed(tokens), sequences)
    has_target = targets != IGNORE
    want = []
    for h, target in zip(hidden[has_target], targets[has_target].tolist(), strict=True):
        if target < TEXT:
            logits, own = F.linear(h, model.text_head.weight), target
        else:
            level = int(target >= TEXT + 5)
            logits = model.level_logits(h, level)
            own = target - model.vocabulary.level_offsets[level]
        want.append(F.cross_entropy(logits, torch.tensor(own)))
    torch.testing.assert_close(losses, torch.stack(want))


def test_a_batch_equals_its_sequences_one_by_one():
    model = StoreModel(CONFIG, TEXT, SIZES).eval()
    tokens, sequences, targets = batch()
    together = model(tokens, sequences, targets)
    first = model(tokens[:4], PackedSequences(torch.tensor([0, 4])), targets[:4])
    second = model(tokens[4:], PackedSequences(torch.tensor([0, 2])), targets[4:])
    torch.testing.assert_close(together, torch.cat([first, second]))


def test_code_tables_are_trained():
    model = StoreModel(CONFIG, TEXT, SIZES)
    model(*batch()).sum().backward()
    for table in (model.code_embedding.weight, model.code_head.weight):
        assert table.grad is not None
        assert table.grad.abs().sum() > 0


def test_unified_ids_are_disjoint_per_level():
    model = StoreModel(CONFIG, TEXT, SIZES)
    ids = model.vocabulary.to_id_tensor(torch.tensor([[0, 0], [4, 2]]))
    assert ids.tolist() == [[11, 16], [15, 18]]


def test_weights_round_trip(tmp_path):
    model, other = StoreModel(CONFIG, TEXT, SIZES), StoreModel(CONFIG, TEXT, SIZES)
    save_weights(dict(model.named_parameters()), tmp_path / "model.safetensors")
    load_weights(other, tmp_path / "model.safetensors")
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


def test_weights_of_another_shape_are_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    save_weights(dict(StoreModel(CONFIG, TEXT, SIZES).named_parameters()), path)
    with pytest.raises(InputError, match=r"code_embedding\.weight' must be"):
        load_weights(StoreModel(CONFIG, TEXT, (5, 4)), path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match="not a readable safetensors file"):
        load_weights(StoreModel(CONFIG, TEXT, SIZES), path)
