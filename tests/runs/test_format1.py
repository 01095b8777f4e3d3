"""Runs of format 1, laid out by hand as they were written."""

import hashlib
import json
import tomllib

import numpy as np
import pytest

from store_engine._C import ItemTrie
from store_engine.config import dump_config
from store_engine.decoding.engine import Engine
from store_engine.errors import InputError
from store_engine.runs.run import load_run
from store_engine.runs.run_directory import RunDirectory

OLD_EVAL = """
[eval]
beam_width = 30
max_k = 20
normalize = "vocab"
exclude_history = true
batch_size = 64
dtype = "float32"
prefix_cache_mib = 0.0
"""


@pytest.fixture
def run1(run_dir, tmp_path):
    """The run of `run_dir` in format 1."""
    config = load_run(run_dir).config
    text = dump_config(config)
    text = text[: text.index("\n[decoding]")]
    new_keys = ("eval_every", "eval_users", "keep", "patience")
    lines = [line for line in text.splitlines() if not line.startswith(new_keys)]
    (run_dir / "config.toml").write_text("\n".join(lines) + "\n" + OLD_EVAL)
    source = tmp_path / "shop" / "items.csv"
    source.parent.mkdir()
    source.write_text("items")
    digests = {str(source): hashlib.sha256(b"items").hexdigest()}
    for name in ("items.jsonl", "histories.npz", "text.model"):
        digests[name] = hashlib.sha256((run_dir / name).read_bytes()).hexdigest()
    (run_dir / "data.json").write_text(json.dumps(digests))
    (run_dir / "run.json").write_text(json.dumps({"format": 1, "version": "0.1.0"}))
    (run_dir / "lock").unlink()
    return run_dir


def test_a_run_of_format_1_is_read_as_it_is(run1):
    before = {path: path.read_bytes() for path in run1.iterdir()}
    run = load_run(run1)
    decoding = run.config.decoding
    assert (decoding.beam_width, decoding.normalize, decoding.exclude_history) == (
        30, "codebook", True,
    )  # fmt: skip
    assert (decoding.batch_size, decoding.dtype, decoding.prefix_cache_mib) == (64, "float32", 0)
    assert run.config.eval.max_k == 20
    assert run.dataset == "ml-100k"
    assert run.histories.num_events == 60
    found = Engine.load(run1, device="cpu").recommend([["item 3"]], 5)
    assert len(found[0]) == 5
    assert {path: path.read_bytes() for path in run1.iterdir()} == before


def test_its_trie_is_made_anew_because_nothing_binds_it(run1):
    wanted = Engine.load(run1, device="cpu").recommend([["item 3"]], 5)
    ItemTrie(np.zeros((60, 3), dtype=np.int32), [6, 5, 7]).save(str(run1 / "trie.bin"))
    assert Engine.load(run1, device="cpu").recommend([["item 3"]], 5) == wanted


def test_resuming_rewrites_it_in_this_format(run1):
    wanted = Engine.load(run1, device="cpu").recommend([["item 3"]], 5)
    with RunDirectory.open_to_write(run1) as run:
        assert run.read_manifest().format == 2
        assert run.is_complete(run.model_weights)
        assert not run.is_complete(run.trie)
        assert not (run1 / "data.json").exists()
        with run.writing(run.trie):
            table = load_run(run1).sid_table
            ItemTrie(table.sids, list(table.codebook_sizes)).save(str(run.trie))
    assert tomllib.loads((run1 / "config.toml").read_text())["decoding"]["beam_width"] == 30
    assert Engine.load(run1, device="cpu").recommend([["item 3"]], 5) == wanted
    assert len(json.loads((run1 / "run.json").read_text())["sources"]) == 1


def test_a_kill_between_config_and_manifest_is_no_harm(run1):
    config = load_run(run1).config
    (run1 / "config.toml").write_text(dump_config(config))
    assert load_run(run1).config == config
    with RunDirectory.open_to_write(run1) as run:
        assert run.read_config() == config


def test_the_name_of_a_data_set_of_files_is_its_folders(run1):
    text = (run1 / "config.toml").read_text().replace('name = "ml-100k"', 'name = "files"')
    (run1 / "config.toml").write_text(text)
    assert load_run(run1).dataset == "shop"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("items.jsonl", "{}", r"items\.jsonl: changed or damaged"),
        ("data.json", "{", r"data\.json: not valid JSON"),
        ("data.json", '{"../x": "0"}', r"run\.json: damaged"),
        ("data.json", '{"items.jsonl": 3}', r"run\.json: damaged"),
        ("config.toml", "[eval", r"config\.toml: not a readable config"),
        ("config.toml", "eval = 3", r"eval and decoding must be sections"),
        ("config.toml", "data = 3", "data must be a section"),
        ("config.toml", "[eval]\nbeam_width = 0", "decoding.beam_width must be in"),
        ("sids.npz", "PK", r"sids\.npz: not a readable SID table"),
    ],
)
def test_damage_is_refused(run1, name, content, message):
    (run1 / name).write_text(content)
    with pytest.raises(InputError, match=message):
        Engine.load(run1, device="cpu")
