"""A run directory: everything that training leaves behind, and all that an engine needs.

run.json names the format. Weights, SIDs and trie are safetensors, npz and the core's own format:
no file is ever unpickled.
"""

import json
from pathlib import Path
from typing import NamedTuple

from store_engine._C import ItemTrie
from store_engine.config import Config, load_config
from store_engine.data.catalog import Catalog
from store_engine.errors import InputError
from store_engine.files.atomic import atomic_open
from store_engine.model.store_model import StoreModel
from store_engine.model.weights import load_weights
from store_engine.sid.sid_table import SidTable
from store_engine.text.vocabulary import Vocabulary, load_vocabulary

RUN_FORMAT = 1  # raised when directories written before can no longer be read


class Run(NamedTuple):
    """A finished run, loaded."""

    config: Config
    catalog: Catalog
    vocabulary: Vocabulary
    sid_table: SidTable
    trie: ItemTrie
    model: StoreModel  # float32, on the CPU


def mark_run(run_dir: Path, version: str) -> None:
    """Writes run.json: which format this directory has, and which version wrote it."""
    with atomic_open(run_dir / "run.json") as file:
        file.write(json.dumps({"format": RUN_FORMAT, "version": version}).encode() + b"\n")


def check_run(run_dir: Path) -> None:
    """Refuses a directory that is no run, or one of another format.

    Raises:
        InputError: As said.
    """
    path = run_dir / "run.json"
    try:
        mark = json.loads(path.read_text(encoding="utf-8"))
        written_in, version = int(mark["format"]), str(mark["version"])
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(f"{run_dir}: not a run directory (it has no run.json)") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not readable as JSON with 'format' and 'version'") from error
    if written_in != RUN_FORMAT:
        raise InputError(
            f"{run_dir}: written by store_engine {version} in format {written_in}; "
            f"this version reads format {RUN_FORMAT}"
        )


def load_run(run_dir: str | Path) -> Run:
    """Loads a finished run.

    Raises:
        InputError: The directory is missing, unfinished, damaged or of another format.
    """
    run_dir = Path(run_dir)
    check_run(run_dir)
    if not (run_dir / "model.safetensors").exists():
        raise InputError(
            f"{run_dir}: the run is not finished (it has no model.safetensors); "
            f"train.py --resume goes on with it"
        )
    config = load_config(run_dir / "config.toml")
    catalog = Catalog.load(run_dir / "items.jsonl")
    vocabulary = load_vocabulary(run_dir)
    table = SidTable.load(run_dir / "sids.npz")
    if catalog.item_ids != table.item_ids:
        raise InputError(f"{run_dir}: sids.npz and items.jsonl list different items")
    trie = _load_trie(run_dir / "trie.bin")
    if (trie.num_items, trie.codebook_sizes) != (catalog.num_items, table.codebook_sizes):
        raise InputError(f"{run_dir}: trie.bin and sids.npz hold different SIDs")
    model = StoreModel(config.model, len(vocabulary), table.codebook_sizes)
    load_weights(model, run_dir / "model.safetensors")
    return Run(config, catalog, vocabulary, table, trie, model)


def _load_trie(path: Path) -> ItemTrie:
    try:
        return ItemTrie.load(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a readable trie: {error}") from error
