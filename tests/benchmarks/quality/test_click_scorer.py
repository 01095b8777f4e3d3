import numpy as np

from benchmarks.quality import click_scorer
from benchmarks.quality.click_events import VALID, measure
from benchmarks.quality.click_scorer import (
    chances_of,
    document,
    make_model,
    model_of_run,
    train_scorer,
)
from store_engine.config import ModelConfig
from store_engine.model.targets import IGNORE
from store_engine.runs.run import load_run

SMALL = ModelConfig(
    hidden_size=16,
    num_layers=1,
    num_heads=1,
    num_kv_heads=1,
    head_dim=16,
    intermediate_size=16,
    dropout=0.0,
)
SIDS = np.stack([np.arange(12) // 4, np.arange(12) % 4], axis=1)


def test_a_document_asks_for_every_label_and_every_next_item_of_its_targets(events):
    model = make_model(SMALL, 1, SIDS, (3, 4))
    is_target = np.ones(len(events.rows), dtype=bool)
    is_target[1] = False
    tokens, targets, _ = document(model, events, np.array([0, 3]), is_target)
    written = [
        [*model.tokens[row], model.first_label + label]
        for row, label in zip(events.rows[:3], events.labels[:3], strict=True)
    ]
    assert tokens.tolist() == [0, *np.ravel(written)[:-1]]
    ignored = [IGNORE] * 3
    assert targets.tolist() == [IGNORE, IGNORE, written[0][2], *ignored, *written[2]]


def test_a_chance_depends_on_nothing_that_comes_later_nor_on_its_own_label(events):
    model = make_model(SMALL, 1, SIDS, (3, 4))
    place = events.offsets[1] + 130
    changed = events.labels.copy()
    changed[place:] = 1 - changed[place:]
    after = chances_of(model, events._replace(labels=changed))
    before = chances_of(model, events)
    np.testing.assert_array_equal(after[: place + 1], before[: place + 1])
    assert (after[place + 1 : place + 10] != before[place + 1 : place + 10]).any()


def test_a_runs_model_keeps_its_weights_and_codes_and_gets_rows_for_the_labels(events, run_dir):
    run = load_run(run_dir)
    model = model_of_run(run, run.catalog)
    num_codes = sum(run.sid_table.codebook_sizes)
    table = model.net.code_head.weight
    assert len(table) == num_codes + 2
    np.testing.assert_array_equal(table[:num_codes].detach(), run.model.code_head.weight.detach())
    assert model.first_label == run.model.vocabulary.text_size + num_codes
    chances = chances_of(model, events)[events.periods > 0]
    assert ((chances > 0) & (chances < 1)).all()


def test_training_keeps_the_epoch_that_validation_liked_best(events, monkeypatch):
    monkeypatch.setattr(click_scorer, "PATIENCE", 2)
    model, seen = make_model(SMALL, 1, SIDS, (3, 4)), []

    def note(chances, events, period):
        found = measure(chances, events, period)
        assert period == VALID
        seen.append(found["auc"])
        return found

    monkeypatch.setattr(click_scorer, "measure", note)
    epoch = train_scorer(model, events, seed=0, max_epochs=5)
    assert epoch == 1 + seen.index(max(seen))
    assert measure(chances_of(model, events), events, VALID)["auc"] == max(seen)
