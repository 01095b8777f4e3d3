"""Memory that an engine takes for its catalogue, in bytes per item.

    python benchmarks/serving_memory.py                        # 10^5 and 10^6 items
    python benchmarks/serving_memory.py --num_items 10000

Items have titles of 60 letters and 4 codes of 256; the model has random weights, hidden size 128
and 2 layers. Measured is the resident memory of a process of its own, less that of one with 1,000
items: what a further item costs. Rows of items and evidence, where a run has them, come on top
(docs/faq.md).
"""

import argparse
import gc
import subprocess
import sys
from pathlib import Path

# run as a script, only benchmarks/ is on the path
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch

from benchmarks.measuring.memory import resident_bytes
from store_engine.config import DecodingConfig, ModelConfig
from store_engine.data.catalog import Catalog
from store_engine.decoding.engine import Engine
from store_engine.model.store_model import StoreModel

_BASE = 1000


def measure(num_items: int) -> int:
    """Resident bytes of a process that serves a catalogue of this size, after one request."""
    torch.manual_seed(0)
    sizes = (256,) * 4
    rng = np.random.default_rng(0)
    sids = rng.integers(0, 256, (num_items, 4)).astype(np.int32)
    ids = tuple(f"B{row:09d}" for row in range(num_items))
    titles = tuple(
        f"{row:08d} a title of sixty letters, as in many a shop's export"
        for row in range(num_items)
    )
    model = StoreModel(
        ModelConfig(hidden_size=128, num_layers=2, num_heads=2, num_kv_heads=2), 4096, sizes
    ).eval()
    config = DecodingConfig(prefix_cache_mib=0.0)
    engine = Engine(model, Catalog(ids, {"title": titles}), sids, bos=1, config=config)
    engine.recommend([[ids[1], ids[2]]], 10)
    del sids, titles
    gc.collect()
    return resident_bytes()


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--num_items", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one is not None:
        print(measure(args.one))
        return
    base = _in_process(_BASE)
    print(f"{_BASE:>12,} items  {base / 2**20:10.0f} MiB in all")
    for num_items in args.num_items:
        total = _in_process(num_items)
        each = (total - base) / (num_items - _BASE)
        print(
            f"{num_items:>12,} items  {total / 2**20:10.0f} MiB in all  {each:8.0f} bytes an item"
        )


def _in_process(num_items: int) -> int:
    command = [sys.executable, __file__, "--one", str(num_items)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


if __name__ == "__main__":
    main()
