"""Runs of format 1, whose run.json did not list the files: read as if they were of format 2.

They have digests of the data alone (data.json), and their config has in [eval] what stands in
[decoding] now. `--resume` rewrites their config and run.json in format 2.
"""

import os
import tomllib
from pathlib import Path
from typing import Any

from store_engine.errors import InputError
from store_engine.files.json_file import read_json
from store_engine.files.regular import parse_errors, read_regular

DATA_FILE = "data.json"
_TO_DECODING = (
    "beam_width",
    "normalize",
    "exclude_history",
    "batch_size",
    "dtype",
    "prefix_cache_mib",
)
# trie.bin is left out: nothing binds it to sids.npz, from which it is made anew
_OTHER_FILES = (
    "config.toml",
    "texts.tokens/tokens.bin",
    "texts.tokens/offsets.npy",
    "texts.tokens/checksums.json",
    "train.tokens/tokens.bin",
    "train.tokens/offsets.npy",
    "train.tokens/checksums.json",
    "tokenizer.safetensors",
    "sids.npz",
    "model.safetensors",
    "scoring.safetensors",
    "metrics.json",
)


def read_format1(run_dir: Path) -> dict[str, Any]:
    """Makes what run.json of format 2 would say of a run of format 1, but format and version.

    Raises:
        InputError: A file of the run is missing or damaged.
    """
    digests = read_json(run_dir / DATA_FILE)
    copies = {name: digest for name, digest in digests.items() if not Path(name).is_absolute()}
    sources = {name: digest for name, digest in digests.items() if name not in copies}
    there = [name for name in _OTHER_FILES if os.path.isfile(run_dir / name)]
    sizes = {
        n: (run_dir / n).stat().st_size for n in [*copies, *there] if os.path.isfile(run_dir / n)
    }
    data = read_config1(run_dir / "config.toml").get("data", {})
    dataset = data.get("name", "ml-100k") if isinstance(data, dict) else ""
    if dataset == "files" and sources:
        dataset = Path(next(iter(sources))).parent.name
    return {
        "dataset": dataset,
        "created": "",
        "files": {
            name: {"bytes": sizes.get(name, 0), "sha256": copies.get(name, "")}
            for name in [*copies, *there]
        },
        "sources": sources,
    }


def read_config1(path: Path) -> dict[str, Any]:
    """Reads a config of format 1 as sections of today; one written anew stays as it is.

    Raises:
        InputError: The file is missing or no TOML.
    """
    with parse_errors(path, "a readable config"):
        tree = tomllib.loads(read_regular(path, 1 << 20).decode("utf-8"))
    evaluation, decoding = tree.get("eval", {}), tree.get("decoding", {})
    if not isinstance(evaluation, dict) or not isinstance(decoding, dict):
        raise InputError(f"{path}: eval and decoding must be sections")
    moved = {name: evaluation.pop(name) for name in _TO_DECODING if name in evaluation}
    if moved.get("normalize") == "vocab":
        moved["normalize"] = "codebook"
    if moved:
        tree["decoding"] = moved | decoding
    return tree
