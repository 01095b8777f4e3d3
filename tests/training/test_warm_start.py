"""The old weights, moved to where they belong among more items."""

import numpy as np
import pytest
import torch
from item_engines import FANOUT, NUM_FEATURES, ROWS, UPPER, ItemCase

from store_engine.config import Config, ModelConfig
from store_engine.model.weights import save_weights
from store_engine.runs.run_paths import RunPaths
from store_engine.sid.item_features import FeatureMap, ItemVectors
from store_engine.sid.sid_table import SidTable
from store_engine.training.warm_start import warm_weights

CONFIG = Config(model=ModelConfig(hidden_size=8))


@pytest.fixture
def start(tmp_path):
    """start(weights, labels) is a run that goes on from these."""

    def make(weights, labels=None):
        paths = RunPaths(tmp_path)
        paths.start.mkdir()
        save_weights(weights, paths.start_weights)
        if labels:
            save_weights(labels, paths.start_scoring)
        return paths

    return make


def table_of(sids, sizes, features=None):
    return SidTable(sids, sizes, tuple(f"i{n}" for n in range(len(sids))), features=features)


@pytest.mark.parametrize("form", ROWS, ids=lambda form: "-".join(map(str, form)))
@pytest.mark.parametrize("is_tied", [True, False], ids=["tied", "untied"])
def test_items_of_later_are_as_if_they_had_no_residual(form, is_tied, start):
    case = ItemCase(*form, is_tied)
    rng = np.random.default_rng(0)
    taken = {tuple(sid) for sid in case.sids.tolist()}
    every = [(a, b, c) for a in range(UPPER[0]) for b in range(UPPER[1]) for c in range(FANOUT)]
    free = np.array([sid for sid in every if sid not in taken], dtype=np.int32)
    sids = free[rng.permutation(len(free))[:7]]
    features = rng.normal(size=(7, NUM_FEATURES)).astype(np.float32)
    want = case.with_items(sids, features).model.state_dict()
    described = FeatureMap(np.zeros(1, np.float32), np.zeros((NUM_FEATURES - 1, 1), np.float32))
    tables = (
        table_of(case.sids, case.sizes, described),
        table_of(np.concatenate([case.sids, sids]), case.sizes, described),
    )
    run = start(dict(case.model.named_parameters()))
    found = warm_weights(CONFIG, run, tables, 0, ItemVectors(features, features))
    assert found.keys() == dict(case.model.named_parameters()).keys()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, want[name], msg=name)


@pytest.mark.parametrize("num_labels", [0, 2])
@pytest.mark.parametrize("had_labels", [False, True])
def test_code_tables_grow_at_the_suffix(num_labels, had_labels, start):
    rows = torch.arange(9 * 8.0).view(9, 8)  # levels of 4, 3 and 2 codes
    labels = {"code_embedding.weight": -torch.ones(2, 8), "code_head.weight": -torch.ones(2, 8)}
    old = {
        "code_embedding.weight": rows,
        "code_head.weight": 2 * rows,
        "x.weight": rows[:1].clone(),
    }
    run = start(old, labels if had_labels else None)
    sids = np.array([[0, 0, 0], [0, 0, 1], [0, 0, 2], [3, 2, 0]], dtype=np.int32)
    tables = table_of(sids[:2], (4, 3, 2)), table_of(sids, (4, 3, 5))
    found = warm_weights(CONFIG, run, tables, num_labels)
    for name, factor in (("code_embedding.weight", 1), ("code_head.weight", 2)):
        assert found[name].shape == (12 + num_labels, 8)
        assert (found[name][:9] == factor * rows).all()
        assert found[name][9:12].isfinite().all()
        assert len(found[name][9:12].unique(dim=0)) == 3
        if had_labels and num_labels:
            assert (found[name][12:] == -1).all()
    assert (found["x.weight"] == rows[:1]).all()


@pytest.mark.parametrize("is_refitted", [True, False])
@pytest.mark.parametrize("with_validation", [True, False])
def test_what_is_validated_has_not_seen_the_validation(is_refitted, with_validation, start):
    old = {name: torch.ones(2, 8) for name in ("code_embedding.weight", "code_head.weight")}
    run = start(old)
    if is_refitted:
        save_weights({n: 5 * t for n, t in old.items()}, run.start_training_weights)
    tables = (table_of(np.array([[0], [1]], dtype=np.int32), (2,)),) * 2
    found = warm_weights(CONFIG, run, tables, with_validation=with_validation)
    want = 5 if is_refitted and not with_validation else 1
    assert (found["code_head.weight"] == want).all()
