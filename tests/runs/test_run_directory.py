import json
import shutil

import numpy as np
import pytest
import torch

from store_engine._C import ItemTrie
from store_engine.decoding.engine import Engine
from store_engine.errors import InputError
from store_engine.runs.run_directory import load_run
from store_engine.sid.sid_table import SidTable


def test_loads_what_was_saved(run_dir):
    run = load_run(run_dir)
    engine = Engine.load(run_dir, device="cpu", dtype="float32")
    same = Engine(
        run.model,
        run.catalog,
        run.sid_table.sids,
        bos=run.vocabulary.bos_id,
        max_history=8,
        config=run.config.decoding,
    )
    assert engine.config.beam_width == 30
    history = ["item 3", "item 4"]
    assert engine.recommend([history], 7) == same.recommend([history], 7)
    assert engine.recommend_rows([range(20)])[0].tolist() == (
        engine.recommend_rows([range(12, 20)])[0].tolist()
    )


def test_loads_in_the_dtype_asked_for(run_dir, histories):
    half = Engine.load(run_dir, device="cpu", dtype="bfloat16")
    assert half.model.code_head.weight.dtype == torch.bfloat16
    exact = Engine.load(run_dir, device="cpu", dtype="float32")
    assert exact.model.code_head.weight.dtype == torch.float32
    _, want = exact.recommend_rows(histories, 5)
    rows, logprobs = half.recommend_rows(histories, 5)
    assert (rows >= 0).all()
    np.testing.assert_allclose(logprobs, want, atol=0.5)  # bf16 has 8 bits


def newer(run_dir):
    (run_dir / "run.json").write_text(json.dumps({"format": 2, "version": "9.1"}))


def no_json(run_dir):
    (run_dir / "run.json").write_text("{")


def no_format(run_dir):
    (run_dir / "run.json").write_text('{"version": "0.1.0"}')


def no_run(run_dir):
    (run_dir / "run.json").unlink()


def no_folder(run_dir):
    shutil.rmtree(run_dir)


def unfinished(run_dir):
    (run_dir / "model.safetensors").unlink()


def truncated_weights(run_dir):
    path = run_dir / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-9])


def truncated_trie(run_dir):
    path = run_dir / "trie.bin"
    path.write_bytes(path.read_bytes()[:-9])


def no_trie(run_dir):
    (run_dir / "trie.bin").unlink()


def other_trie(run_dir):
    ItemTrie(np.zeros((60, 3), dtype=np.int32), [6, 5, 8]).save(run_dir / "trie.bin")


def other_items(run_dir):
    table = SidTable.load(run_dir / "sids.npz")
    ids = tuple(reversed(table.item_ids))
    SidTable(table.sids, table.codebook_sizes, ids).save(run_dir / "sids.npz")


def other_weights(run_dir):
    table = SidTable.load(run_dir / "sids.npz")
    sizes = (6, 5, 9)
    SidTable(table.sids, sizes, table.item_ids).save(run_dir / "sids.npz")
    ItemTrie(table.sids, list(sizes)).save(run_dir / "trie.bin")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (newer, "written by store_engine 9.1 in format 2; this version reads format 1"),
        (no_json, "run.json: not readable as JSON"),
        (no_format, "run.json: not readable as JSON with 'format' and 'version'"),
        (no_run, "not a run directory"),
        (no_folder, "not a run directory"),
        (unfinished, "the run is not finished"),
        (truncated_weights, "model.safetensors: not a readable"),
        (truncated_trie, "trie.bin: not a readable trie"),
        (no_trie, "trie.bin: not a readable trie"),
        (other_trie, "trie.bin and sids.npz hold different SIDs"),
        (other_items, "sids.npz and items.jsonl list different items"),
        (other_weights, "tensor 'code_embedding.weight' must be"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_refuses(run_dir, spoil, message):
    spoil(run_dir)
    with pytest.raises(InputError, match=message):
        Engine.load(run_dir, device="cpu")
