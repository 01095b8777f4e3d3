import functools

import pytest
import torch

from store_engine.data.catalog import Catalog
from store_engine.errors import InputError
from store_engine.kernels.linear_cross_entropy import (
    linear_cross_entropy,
    linear_cross_entropy_ref,
)
from store_engine.model import store_model
from store_engine.model.store_model import Head
from store_engine.sid.dense_tokenizer import (
    ItemTexts,
)
from store_engine.text.text_vocabulary import TextVocabulary
from store_engine.training.host_batch import HostBatch
from store_engine.training.log import VALIDATION
from store_engine.training.stages.tokenizer import TokenizerStage

pytestmark = pytest.mark.usefixtures("process_group")


@pytest.mark.parametrize("num_shards", [1, 2, 3])
def test_tokenizer_loss_does_not_depend_on_the_number_of_shards(stages, num_shards):
    _, stage, _ = stages
    torch.manual_seed(0)
    module = stage.build()
    whole = stage.loss(module, stage.batch(3, 0, 1), 1)
    parts = [
        stage.loss(module, stage.batch(3, i, num_shards), num_shards) for i in range(num_shards)
    ]
    text = sum(part.sums[:-1] for part in parts)  # the contrast needs the other ranks
    torch.testing.assert_close(text, whole.sums[:-1])
    assert sum(part.work[0] for part in parts) == whole.work[0]


@pytest.mark.parametrize("num_shards", [1, 2, 5])
def test_recommender_loss_does_not_depend_on_the_number_of_shards(stages, num_shards):
    _, _, stage = stages
    torch.manual_seed(0)
    module = stage.build()
    whole = stage.loss(module, stage.batch(1, 0, 1), 1).total
    parts = [
        stage.loss(module, stage.batch(1, i, num_shards), num_shards) for i in range(num_shards)
    ]
    torch.testing.assert_close(sum(part.total for part in parts) / num_shards, whole)


@pytest.mark.parametrize("num_shards", [1, 3])
def test_every_tasks_loss_is_logged_and_weighed(all_tasks, num_shards):
    torch.manual_seed(0)
    module = all_tasks.build()
    parts = [
        all_tasks.loss(module, all_tasks.batch(1, i, num_shards), num_shards)
        for i in range(num_shards)
    ]
    sums, counts = (sum(getattr(part, name) for part in parts) for name in ("sums", "counts"))
    assert (counts > 0).all()
    want = sums[:-1].sum() / counts[:-1].sum() + sums[-1] / counts[-1]
    torch.testing.assert_close(sum(part.total for part in parts) / num_shards, want)


def test_every_task_can_be_learned(all_tasks):
    """One step's documents by heart: no target is out of reach of the weights."""
    torch.manual_seed(0)
    module, batch = all_tasks.build(), all_tasks.batch(0, 0, 1)
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)
    for _ in range(80):
        loss = all_tasks.loss(module, batch, 1)
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
    means = dict(zip(all_tasks.losses, (loss.sums / loss.counts).tolist(), strict=True))
    assert means["loss/scoring"] < 0.2  # from log 2
    assert means["loss/alignment"] < 1.0  # from log 16
    assert means["loss/next_item"] < 1.8
    assert means["loss/reconstruction"] < 3.0  # from log 300


def test_too_many_shards_are_refused(stages):
    _, tokenizer, stage = stages
    with pytest.raises(InputError, match=r"tokens_per_step is too small: a step of \d+ documents"):
        stage.batch(0, 0, 10_000)
    stage.check_shards(2)
    with pytest.raises(InputError, match=r"tokens_per_step is too small: a step of \d+ documents"):
        stage.check_shards(10_000)
    tokenizer.check_shards(24)
    with pytest.raises(InputError, match="a step of stage 1 has 24 items, which 25 ranks"):
        tokenizer.check_shards(25)


def test_steps_smaller_than_a_document_are_refused(stages_with):
    _, _, stage = stages_with("recommender.tokens_per_step=1")
    with pytest.raises(InputError, match="tokens_per_step is too small: a step of 0 documents"):
        stage.check_shards(1)


def test_a_shard_without_text_still_trains(stages):
    """An item without any text has dense tokens, but nothing to rebuild."""
    config, _, _ = stages
    catalog = Catalog(("a", "b", "c"), {"title": ("", "", "some text")})
    vocabulary = TextVocabulary.train(["some text of another item"] * 9, 300)
    stage = TokenizerStage(config, ItemTexts(catalog, vocabulary, 8), len(vocabulary))
    module = stage.build()
    losses = [stage.loss(module, stage.batch(0, i, 3), 3) for i in range(3)]
    assert sorted(int(loss.counts[0]) > 0 for loss in losses) == [False, False, True]
    sum(loss.total for loss in losses).backward()
    assert all(p.grad.isfinite().all() for p in module.parameters())


def test_no_text_field_overwrites_what_the_log_has(stages):
    config, _, _ = stages
    own = ["stage", "step", "loss", "contrastive", "lr", "tokens_per_s", "wall_s", VALIDATION]
    catalog = Catalog(("a",), dict.fromkeys(own, ("some text",)))
    vocabulary = TextVocabulary.train(["some text of another item"] * 9, 300)
    stage = TokenizerStage(config, ItemTexts(catalog, vocabulary, 8), len(vocabulary))
    names = [*own, *stage.losses[:-1]]
    assert len(set(names)) == len(names)
    assert stage.losses[-1] in own


def test_the_labels_rows_are_cut_off_and_nothing_else(all_tasks):
    sizes = all_tasks.vocabulary.codebook_sizes
    table, body = torch.arange(2.0 * sum(sizes)).view(-1, 2), torch.ones(3)
    weights = {"code_embedding.weight": table, "code_head.weight": -table, "norm.weight": body}
    items, labels = all_tasks.split_labels(weights)
    assert torch.equal(labels["code_head.weight"], -table[-2:])
    assert torch.equal(items["code_embedding.weight"], table[:-2])
    assert items["norm.weight"] is body


def test_without_labels_nothing_is_cut_off(stages):
    weights = {n: torch.ones(48, 2) for n in ("code_embedding.weight", "code_head.weight")}
    items, labels = stages[2].split_labels(weights)
    assert labels == {}
    assert all(len(items[name]) == 48 for name in weights)


@pytest.mark.parametrize("op", ["triton", "reference", "materialised"])
@pytest.mark.parametrize("stage_id", [1, 2], ids=["tokenizer", "recommender"])
def test_losses_and_gradients_do_not_depend_on_the_kernel(
    op, stage_id, stages, monkeypatch, device
):
    stage = stages[stage_id]
    torch.manual_seed(0)
    module = stage.build().to(device)
    parameters = [p for p in module.parameters() if p.requires_grad]
    # a small part: the interpreter is slow
    batch = HostBatch(stage.batch(0, 0, 8), torch.device(device)).to_device()

    def losses_and_gradients():
        total = stage.loss(module, batch, 8).total
        return [total, *torch.autograd.grad(total, parameters, allow_unused=True)]

    want = losses_and_gradients()
    if op == "materialised":
        for head in (m for m in module.modules() if isinstance(m, Head)):
            head.is_fused = False
    else:
        used = {
            "triton": functools.partial(linear_cross_entropy, backend="triton"),
            "reference": linear_cross_entropy_ref,
        }
        monkeypatch.setattr(store_model, "linear_cross_entropy", used[op])
    got = losses_and_gradients()
    for ours, theirs in zip(got, want, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("stage_id", [1, 2], ids=["tokenizer", "recommender"])
def test_padding_changes_no_loss_and_no_gradient(stage_id, stages):
    stage = stages[stage_id]
    torch.manual_seed(0)
    module, batch = stage.build(), stage.batch(1, 0, 4)
    parameters = [p for p in module.parameters() if p.requires_grad]

    def losses_and_gradients(batch):
        loss = stage.loss(module, batch, 4)
        gradients = torch.autograd.grad(loss.total, parameters, allow_unused=True)
        return [loss.total, loss.sums, loss.counts, loss.work, *gradients]

    want, got = losses_and_gradients(batch), losses_and_gradients(batch.padded(256))
    for ours, theirs in zip(got, want, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("num_shards", [1, 3])
def test_losses_of_items_do_not_depend_on_shards_or_kernel(num_shards, item_stage):
    stage = item_stage
    torch.manual_seed(0)
    module = stage.build()
    module.item_rows.features.data.normal_()
    whole = stage.loss(module, stage.batch(1, 0, 1), 1).total
    module.item_loss.is_fused = False  # the reference: all logits at once
    parts = [
        stage.loss(module, stage.batch(1, i, num_shards), num_shards) for i in range(num_shards)
    ]
    torch.testing.assert_close(sum(part.total for part in parts) / num_shards, whole)
