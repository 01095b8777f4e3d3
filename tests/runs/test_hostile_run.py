"""A run whose digests are right and whose files do not belong together: refused in one line."""

import json

import numpy as np
import pytest
import torch
from engines import SIZES, random_sids
from safetensors.torch import load_file, save_file

from store_engine._C import ItemTrie
from store_engine.decoding.engine import Engine
from store_engine.errors import InputError
from store_engine.files.digest import sha256
from store_engine.runs.inspect_run import inspect_run
from store_engine.runs.run import load_run

_DIGEST = "0" * 64


def bind(run_dir):
    """States in run.json the digests of the files as they are."""
    path = run_dir / "run.json"
    values = json.loads(path.read_text())
    for name, entry in values["files"].items():
        if (run_dir / name).is_file():
            entry |= {"bytes": (run_dir / name).stat().st_size, "sha256": sha256(run_dir / name)}
    for entry in values["files"].values():
        for origin in entry.get("made_from", {}):
            entry["made_from"][origin] = values["files"][origin]["sha256"]
    path.write_text(json.dumps(values))


def tensors(**changes):
    def damage(run_dir):
        path = run_dir / "model.safetensors"
        save_file(load_file(path) | changes, path)

    return damage


def arrays(**changes):
    def damage(run_dir):
        path = run_dir / "sids.npz"
        np.savez(path, **(dict(np.load(path)) | changes))

    return damage


def config(*changes):
    def damage(run_dir):
        path = run_dir / "config.toml"
        text = path.read_text()
        for name, value in changes:
            line = next(line for line in text.splitlines() if line.startswith(f"{name} = "))
            text = text.replace(line, f"{name} = {value}")
        path.write_text(text)

    return damage


def other_trie(run_dir):
    ItemTrie(random_sids(60, seed=5), list(SIZES)).save(run_dir / "trie.bin")


MONSTER = [("hidden_size", 65_536), ("num_layers", 1024), ("intermediate_size", 1_000_000)]
HOSTILE = {
    "a tensor of no model": (tensors(extra=torch.zeros(3)), "'extra' is not one of this model's"),
    "fewer layers": (config(("num_layers", 1)), "is not one of this model's"),
    "more layers": (config(("num_layers", 1024)), "no tensor"),
    "a model beyond any memory": (config(*MONSTER), "must be"),
    "codebooks beyond any memory": (arrays(codebook_sizes=np.full(3, 1 << 40)), "in .1, 65536."),
    "codebooks beyond 64 bits": (arrays(codebook_sizes=np.full(3, 2**64 - 1, np.uint64)), "65536"),
    "an empty codebook": (arrays(codebook_sizes=np.array([6, 0, 7])), "65536"),
    "no levels": (
        arrays(codes=np.zeros((60, 0), np.int32), codebook_sizes=np.zeros(0, np.int64)),
        "1 to 16 levels",
    ),
    "the trie of another run": (other_trie, "trie.bin: the trie must hold the SIDs of the items"),
    "the SIDs of another run": (
        arrays(codes=random_sids(60, seed=6)),
        "trie.bin: the trie must hold the SIDs of the items",
    ),
}


@pytest.mark.parametrize(("damage", "message"), HOSTILE.values(), ids=HOSTILE)
def test_files_that_do_not_belong_together(run_dir, damage, message):
    damage(run_dir)
    bind(run_dir)
    with pytest.raises(InputError, match=message):
        Engine.load(run_dir, device="cpu")


def entry(**values):
    return {"bytes": 1, "sha256": _DIGEST} | values


ENTRIES = {
    "a name beyond the file system's": {"x" * 5000: entry()},
    "many folders": {"a/" * 1000 + "a": entry()},
    "NUL in a name": {"a\0": entry()},
    "half a pair in a name": {"\ud800": entry()},
    "no name": {"": entry()},
    "no digest": {"model.safetensors": entry(sha256="")},
    "a huge size": {"model.safetensors": entry(bytes=10**4000)},
    "origins of another type": {"model.safetensors": entry(made_from=[])},
    "no next digest": {"model.safetensors": entry(next_sha256=None)},
}


@pytest.mark.parametrize("files", ENTRIES.values(), ids=ENTRIES)
@pytest.mark.parametrize("reader", [load_run, inspect_run])
def test_entries_of_run_json(run_dir, reader, files):
    path = run_dir / "run.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values | {"files": values["files"] | files}))
    with pytest.raises(InputError) as caught:
        reader(run_dir)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("path", ["", ".", "x" * 5000, "a\0b", "\ud800", "/dev/null"], ids=ascii)
def test_paths_that_are_no_run(path):
    with pytest.raises(InputError, match="not a run directory"):
        load_run(path)


@pytest.mark.parametrize(
    "options", [{"device": "x"}, {"device": None}, {"dtype": "float16"}], ids=str
)
def test_options_of_loading(run_dir, options):
    with pytest.raises(InputError, match="must be"):
        Engine.load(run_dir, **options)


def test_two_engines_of_one_run_do_not_share_a_model(run_dir):
    run = load_run(run_dir)
    first = Engine.load(run, device="cpu", dtype="float32")
    before = first.recommend([["item 1"], []], k=5)
    second = Engine.load(run, device="cpu", dtype="bfloat16")
    assert first.model.text_embedding.weight.dtype == torch.float32
    assert second.model.text_embedding.weight.dtype == torch.bfloat16
    assert first.recommend([["item 1"], []], k=5) == before
