"""The sentences, against runs whose truth is known."""

import dataclasses

import numpy as np
import pytest

from store_engine.config import Config, TrainConfig
from store_engine.report.codebook import codebook
from store_engine.report.verdicts import on_codes, on_result, on_training
from store_engine.sid.sid_table import SidTable


def _table(sids, sizes):
    ids = tuple(map(str, range(len(sids))))
    return SidTable(np.array(sids, dtype=np.int32), sizes, ids)


def _grid(size):
    return [[i // size, i % size] for i in range(size * size)]


@pytest.mark.parametrize(
    ("sids", "sizes", "about", "kind", "word"),
    [
        (_grid(8), (8, 8), "tokenizer.codebook_size", "good", "all codes"),
        (_grid(8), (64, 8), "tokenizer.codebook_size", "bad", "uses 8 of 64 codes"),
        (_grid(8), (12, 8), "tokenizer.codebook_size", "look", "uses 8 of 12 codes"),
        (_grid(8), (8, 8), "tokenizer.num_codes", "good", "No two items"),
        ([[0, i % 4] for i in range(64)], (1, 4), "tokenizer.num_codes", "look", "4 groups"),
        ([[i // 2, 0] for i in range(64)], (32, 1), "tokenizer.num_codes", "bad", "32 groups"),
    ],
    ids=["all used", "mostly unused", "some unused", "no collision", "few groups", "all collide"],
)
def test_codes(sids, sizes, about, kind, word):
    config = Config()
    said = {v.about: v for v in on_codes(codebook(_table(sids, sizes), 2), config)}
    assert said[about].kind == kind and word in said[about].text


def test_a_level_that_says_another_is_noticed():
    same = [[i % 8, i % 8, i // 8] for i in range(64)]
    texts = [v.text for v in on_codes(codebook(_table(same, (8, 8, 8)), 3), Config())]
    assert any("one of them adds little" in text for text in texts)


def _entries(stage, losses, valid=()):
    entries = [
        {"stage": stage, "step": i, "loss": loss, "tokens_per_s": 1.0, "wall_s": 1.0}
        for i, loss in enumerate(losses, 1)
    ]
    for entry, value in zip(entries, valid, strict=False):
        entry["valid_ndcg@10"] = value
    return entries


@pytest.mark.parametrize(
    ("valid", "keep", "kind", "word"),
    [
        ([], "last", "look", "not measured"),
        ([0.1, 0.2, 0.3, 0.4], "best", "look", "more epochs"),
        ([0.1, 0.3, 0.301, 0.3005], "best", "good", "levelled off"),
        ([0.1, 0.3, 0.3005, 0.301], "best", "good", "levelled off"),
        ([0.1, 0.4, 0.3, 0.2], "last", "bad", "fewer epochs"),
        ([0.4, 0.1, 0.1, 0.1, 0.1, 0.1], "best", "look", "best early"),
        ([0.0, 0.0, 0.0], "best", "bad", "stayed at 0"),
    ],
    ids=["none", "rising", "flat", "flat and best", "overfitted", "best early", "nothing learned"],
)
def test_epochs_by_validation(valid, keep, kind, word):
    config = dataclasses.replace(Config(), train=TrainConfig(keep=keep, eval_every=1))
    losses = [2.0] * max(len(valid), 3)
    verdict = on_training(_entries("recommender", losses, valid), config)[0]
    assert (verdict.kind, verdict.about) == (kind, "recommender.epochs")
    assert word in verdict.text


@pytest.mark.parametrize(
    ("losses", "kind"),
    [([100 / i for i in range(1, 101)], "look"), ([3.0] * 100, "good")],
    ids=["falling", "flat"],
)
def test_epochs_of_stage_1_by_the_loss(losses, kind):
    verdict = on_training(_entries("tokenizer", losses), Config())[0]
    assert (verdict.kind, verdict.about) == (kind, "tokenizer.epochs")


@pytest.mark.parametrize(("value", "kind"), [(0.2, "good"), (0.11, "look"), (0.01, "bad")], ids=str)
def test_the_result_is_held_against_noise(value, kind):
    metrics = {
        "metrics": {"recall@10": value},
        "standard_errors": {"recall@10": 0.01},
        "baselines": {"popularity": {"recall@10": 0.05}, "co_visitation": {"recall@10": 0.1}},
        "baseline_standard_errors": {
            "popularity": {"recall@10": 0.01},
            "co_visitation": {"recall@10": 0.01},
        },
        "share_of_targets_seen": 0.3,
        "primary": "seen_left_out",
        "missing_items": 0,
    }
    said = on_result(metrics, Config())
    assert said[0].kind == kind and "co-visitation" in said[0].text
    assert said[1].about == "decoding.exclude_history"  # 30 % of the targets cannot be hit
