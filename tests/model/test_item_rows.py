import numpy as np
import pytest
import torch

from store_engine.config import ModelConfig
from store_engine.model.attention import PackedSequences
from store_engine.model.item_rows import ItemRows, ItemTokens
from store_engine.model.store_model import StoreModel
from store_engine.model.targets import IGNORE, HeadTargets

CODES = np.array([[0], [0], [1], [3], [3], [3]])
SMALL = ModelConfig(
    hidden_size=16, num_layers=1, num_heads=2, num_kv_heads=2, head_dim=8, intermediate_size=24
)
FORMS = {
    "rows": {"num_features": 3},
    "rows by heads": {"num_features": 3, "head_size": 5},
    "rows read as items": {"num_features": 3, "head_size": 5, "are_read": True},
    "codes by heads": {"head_size": 5},
    "codes read as items": {"head_size": 5, "are_read": True},
    "untied": {"num_features": 3, "is_tied": False},
}


def make_model(skip=False, **form):
    torch.manual_seed(0)
    model = StoreModel(SMALL, 10, (4,), items=ItemTokens(CODES, **form), skip=skip)
    if model.item_rows is not None:
        model.item_rows.features.data.normal_()
    return model.eval()


def test_the_items_of_a_prefix_are_a_slice():
    begins, counts = ItemTokens(CODES).slices
    assert begins.tolist() == [0, 0, 2, 3, 3, 3]
    assert counts.tolist() == [2, 2, 1, 3, 3, 3]


def test_codes_out_of_order_are_refused():
    with pytest.raises(ValueError, match="ascending order"):
        ItemTokens(CODES[::-1])


def test_a_row_is_what_describes_the_item_and_a_residual():
    rows = ItemRows(ItemTokens(CODES, num_features=3, is_tied=False), 16)
    rows.features.data.normal_()
    base = rows.new_rows(rows.features)
    read, written = rows()
    torch.testing.assert_close(read, base + rows.residual)
    torch.testing.assert_close(written, base + rows.written_residual)
    assert not rows.features.requires_grad


def test_a_step_leaves_residuals_out():
    rows = ItemRows(ItemTokens(np.zeros((2000, 1)), num_features=3, residual_dropout=0.25), 4)
    left_out = (rows.train()().read == rows.new_rows(rows.features)).all(1)
    assert left_out.float().mean().item() == pytest.approx(0.25, abs=0.05)
    assert not (rows.eval()().read == rows.new_rows(rows.features)).all(1).any()


def item_tokens(model, slot):
    """An item of a history."""
    item = [model.vocabulary.item_offset + slot]
    if model.items.are_read:
        return item
    return [10 + int(CODES[slot, 0]), *(item if model.items.have_rows else [])]


def losses_of_all_items(model, history):
    """Minus the log-probability of every item after a history of slots, by the training loss."""
    vocabulary, items = model.vocabulary, model.items
    tokens = [1] + [token for slot in history for token in item_tokens(model, slot)]
    losses = []
    for slot in range(len(items)):
        item, code = vocabulary.item_offset + slot, 10 + int(CODES[slot, 0])
        if items.head_size:
            document, targets = tokens, [item]
        else:
            document, targets = [*tokens, code], [code, item]
        padded = [IGNORE] * (len(document) - len(targets)) + targets
        sequences = PackedSequences.from_lengths(torch.tensor([len(document)]))
        losses.append(model(torch.tensor(document), sequences, torch.tensor(padded)).sum())
    return torch.stack(losses)


@pytest.mark.parametrize("skip", [False, True], ids=["", "skip"])
@pytest.mark.parametrize("form", [name for name in FORMS if "codes" not in name])
@torch.no_grad()
def test_the_probabilities_of_all_items_sum_to_one(form, skip):
    model = make_model(skip, **FORMS[form])
    losses = losses_of_all_items(model, [4, 0, 2]).double()
    # but for the share of the code that no item has
    document = [1] + [t for slot in (4, 0, 2) for t in item_tokens(model, slot)]
    sequences = PackedSequences.from_lengths(torch.tensor([len(document)]))
    state = model.hidden_states(model.embed(torch.tensor(document)), sequences)[-1]
    head = model.level_heads[0] if model.level_heads is not None else torch.nn.Identity()
    unused = model.level_logits(head(state), 0).softmax(-1)[2]
    torch.testing.assert_close((-losses).exp().sum() + unused.double(), torch.tensor(1.0).double())


@pytest.mark.parametrize("form", FORMS)
def test_every_weight_learns(form):
    model = make_model(**FORMS[form]).train()
    losses_of_all_items(model, [4, 0, 2]).sum().backward()
    for name, weight in model.named_parameters():
        if weight.requires_grad and "text" not in name:
            assert weight.grad is not None and weight.grad.abs().sum() > 0, name


def test_a_softmax_over_all_items_is_added():
    plain = make_model(num_features=3, head_size=5)
    both = make_model(num_features=3, head_size=5, softmax_weight=0.5)
    rows = plain.item_rows().written
    state = torch.randn(6, 16)
    places = torch.arange(6)
    targets = HeadTargets(order=places, at=places, first=places, ids=places)
    more = both._item_losses(state, targets, both.item_rows())
    less = plain._item_losses(state, targets, plain.item_rows())
    logits = plain.level_heads[-1](state) @ rows.T
    want = 0.5 * torch.nn.functional.cross_entropy(logits, places, reduction="none")
    torch.testing.assert_close(more - less, want)
