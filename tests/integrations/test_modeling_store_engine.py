"""The file that goes with an export, against our engine: it may use nothing of ours itself."""

import ast
import json

import numpy as np
import pytest
import torch
from item_engines import FORMS, ItemCase

from store_engine import InputError, load_run
from store_engine.integrations import export_run as module
from store_engine.integrations import modeling_store_engine
from store_engine.integrations.export_run import add_code, export_run, sid_tokens
from store_engine.integrations.huggingface import export_huggingface, item_weights
from store_engine.integrations.import_run import ITEM_WEIGHTS
from store_engine.model.weights import save_weights
from store_engine.sid.sid_table import SidTable

transformers = pytest.importorskip("transformers")

HEADS = [(*form, tied) for form in FORMS if form[2] == "heads" for tied in (True, False)]
HISTORIES = [[3, 1, 4, 1, 5], [], list(range(20)), [59]]


def write(case, folder):
    """The part of an exported folder that the file reads."""
    exported = export_huggingface(case.model, bos=1)
    exported.config.store_engine = {
        "text_vocab_size": 20,
        "codebook_sizes": list(case.sizes),
        "max_history": 8,
        "reads_items": case.are_read,
    }
    folder.mkdir()
    add_code(exported, folder)
    exported.save_pretrained(folder)
    (folder / "store_engine").mkdir()
    save_weights(item_weights(case.model), folder / "store_engine" / ITEM_WEIGHTS)
    ids = tuple(f"item {row}" for row in range(len(case.sids)))
    (folder / "sids.json").write_text(json.dumps(sid_tokens(SidTable(case.sids, case.sizes, ids))))


@pytest.mark.parametrize("form", HEADS, ids=lambda form: "-".join(map(str, form)))
def test_scores_equal_the_engines(form, tmp_path):
    case = ItemCase(*form)
    write(case, tmp_path / "folder")
    theirs = modeling_store_engine.StoreRecommender.from_pretrained(str(tmp_path / "folder"))
    engine = case.engine()
    want = torch.from_numpy(engine.score_rows(HISTORIES))
    torch.testing.assert_close(theirs.score(HISTORIES), want, atol=1e-4, rtol=1e-4)
    history = [engine.catalog.item_ids[row] for row in HISTORIES[0]]
    found = theirs.recommend([history, []], k=5)
    ours = engine.recommend([history, []], 5, exact=True)
    assert [[item for item, _ in one] for one in found] == [
        [r.item_id for r in one] for one in ours
    ]


def test_auto_model_runs_it_only_if_it_is_trusted(tmp_path):
    case = ItemCase("item", "items", "heads", False)
    write(case, tmp_path / "folder")
    plain = transformers.AutoModel.from_pretrained(tmp_path / "folder", local_files_only=True)
    assert type(plain).__name__ == "LlamaModel"
    theirs = transformers.AutoModel.from_pretrained(
        tmp_path / "folder", local_files_only=True, trust_remote_code=True
    )
    assert type(theirs).__name__ == "StoreRecommender"
    want = torch.from_numpy(case.engine().score_rows(HISTORIES))
    torch.testing.assert_close(theirs.score(HISTORIES), want, atol=1e-4, rtol=1e-4)


def test_it_uses_nothing_of_ours():
    with open(modeling_store_engine.__file__) as file:
        tree = ast.parse(file.read())
    names = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert not [name for name in names if name.startswith("store_engine")]


def test_code_is_for_heads_alone(run_dir, tmp_path):
    with pytest.raises(InputError, match="this one needs none"):
        export_run(load_run(run_dir), tmp_path / "out", with_code=True)
    assert not (tmp_path / "out").exists()


def test_places_of_items_are_numbers_of_codes():
    table = SidTable(np.array([[0, 2], [1, 0]], np.int32), (2, 3), ("x", "y"))
    assert module.sid_tokens(table) == {"x": ["<a_0>", "<b_2>"], "y": ["<a_1>", "<b_0>"]}
