"""Bulk changes of a live catalogue: how long they take until they are on the disk and seen.

    python benchmarks/live_catalog.py                       # 10^5 new items by text, 10^5 events
    python benchmarks/live_catalog.py --quick
    python benchmarks/live_catalog.py --catalog 1000000 --items 100000 --batch 1000

A run with random weights has `--catalog` items of 3 codes of 256. `--items` new ones are added by
text, in calls of `--batch` (0: one call), and as many events. Reading is the LLM's time (hidden
128, 4 layers); the rest is choosing SIDs, the journal's commit and the new view. Then the run is
loaded again, compacted, and loaded once more. The same additions with `journal=False` and SIDs at
hand show what reading and the journal cost. A row goes to stdout as JSON, with the machine's load.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# run as a script, only benchmarks/ is on the path
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch

from store_engine._C import ItemTrie
from store_engine.config import Config, DataConfig, DecodingConfig, ModelConfig, TokenizerConfig
from store_engine.data.catalog import Catalog
from store_engine.data.histories import Histories
from store_engine.decoding.engine import Engine
from store_engine.live.item_tokenizer import ItemTokenizer
from store_engine.model.store_model import StoreModel
from store_engine.model.weights import save_weights
from store_engine.runs.run import load_run
from store_engine.runs.run_directory import RunDirectory, RunOrigin
from store_engine.runs.run_paths import RunPaths
from store_engine.sid.collisions import resolve_collisions
from store_engine.sid.dense_tokenizer import DenseTokenizer, ItemTexts, encode_catalog
from store_engine.sid.quantizers.parallel import ParallelQuantizer
from store_engine.sid.quantizers.quantizer import FitSettings
from store_engine.sid.sid_table import SidTable
from store_engine.text.text_vocabulary import TextVocabulary

_CODES, _CODEBOOK, _SAMPLE, _USERS = 3, 256, 4096, 1000
_WORDS = np.array([a + b for a in ("ka", "lo", "mi", "nu", "re", "so") for b in "bdfgklmnprst"])


def titles(number: int, seed: int) -> tuple[str, ...]:
    """Titles of four words."""
    words = np.random.default_rng(seed).choice(_WORDS, (number, 4))
    return tuple(" ".join(row) for row in words.tolist())


def make_run(root: Path, num_items: int) -> None:
    """Writes a run whose suffix level has room for the new items."""
    texts = titles(num_items, 0)
    catalog = Catalog(tuple(f"item {n}" for n in range(num_items)), {"title": texts})
    config = Config(
        data=DataConfig(text_fields=("title",)),
        model=ModelConfig(),
        tokenizer=TokenizerConfig(num_codes=_CODES, codebook_size=_CODEBOOK),
        decoding=DecodingConfig(beam_width=20),
    )
    vocabulary = TextVocabulary.train(list(texts[:_SAMPLE]), vocab_size=400)
    torch.manual_seed(0)
    tokenizer = DenseTokenizer(StoreModel(config.model, len(vocabulary)), _CODES).eval()
    sample = catalog.take(range(min(_SAMPLE, num_items)))
    dense_tokens = encode_catalog(tokenizer, ItemTexts(sample, vocabulary, 64), _CODES)
    fit = FitSettings(_CODES, min(_CODEBOOK, len(dense_tokens)), 32, 5, 0)
    quantizer = ParallelQuantizer.fit(dense_tokens, fit)
    codes = np.random.default_rng(0).integers(0, fit.codebook_size, (num_items, _CODES))
    none = np.zeros((0, 0, 0), np.float32)
    sids, sizes = resolve_collisions(codes.astype(np.int32), fit.codebook_size, none, "suffix")
    sizes = (*sizes[:-1], max(sizes[-1], 64))
    model = StoreModel(config.model, len(vocabulary), sizes).eval()

    def write_data(paths: RunPaths) -> None:
        catalog.save(paths.items)
        rows = np.arange(3 * _USERS, dtype=np.int32) % num_items
        users = tuple(f"user {n}" for n in range(_USERS))
        Histories(users, rows, np.arange(0, len(rows) + 1, 3)).save(paths.histories)
        vocabulary.save(paths.root)

    with RunDirectory.create(root, RunOrigin(config, "synthetic"), write_data) as run:
        with run.writing(run.tokenizer_weights):
            save_weights(tokenizer.state_dict(), run.tokenizer_weights)
        with run.writing(run.sids):
            SidTable(sids, sizes, catalog.item_ids, quantizer).save(run.sids)
        with run.writing(run.trie, run.model_weights):
            ItemTrie(sids, list(sizes)).save(str(run.trie))
            save_weights(model.state_dict(), run.model_weights)


@contextmanager
def timed(row: dict[str, Any], name: str) -> Iterator[None]:
    """Notes the seconds of a block."""
    began = time.perf_counter()
    yield
    row[f"{name}_s"] = round(time.perf_counter() - began, 3)


def measure(root: Path, num_new: int, batch: int) -> dict[str, Any]:
    """Measures all changes once."""
    row: dict[str, Any] = {"new_items": num_new, "batch": batch}
    new = Catalog(tuple(f"new {n}" for n in range(num_new)), {"title": titles(num_new, 1)})
    step = batch or num_new
    parts = [new.take(range(n, min(n + step, num_new))) for n in range(0, num_new, step)]
    with timed(row, "load"):
        engine = Engine.load(root)
    row["catalog"] = engine.trie.num_items
    tokenizer = ItemTokenizer(load_run(root))
    tokenizer.read(new.take(range(1)))
    with timed(row, "read_by_llm"):
        for part in parts:
            tokenizer.read(part)
    with timed(row, "add_items"):
        for part in parts:
            engine.add_items(part)
    others = [part.take(range(part.num_items)) for part in parts]
    sids = [engine.sids[engine.catalog.row_of(p.item_ids[0]) :][: p.num_items] for p in others]
    memory = Engine.load(root, journal=False)
    with timed(row, "add_items_with_sids_in_memory"):
        for part, own in zip(others, sids, strict=True):
            memory.add_items(part, own)
    events = [(f"user {n % _USERS}", new.item_ids[n], float(n)) for n in range(num_new)]
    with timed(row, "add_events"):
        for begin in range(0, num_new, step):
            engine.add_events(events[begin : begin + step])
    engine.close()
    row["journal_mib"] = round((root / "journal.db").stat().st_size / 2**20, 1)
    with timed(row, "load_with_journal"):
        again = Engine.load(root)
    assert again.trie.num_items == row["catalog"] + num_new
    with timed(row, "compact"):
        again.compact()
    again.close()
    with timed(row, "load_compacted"):
        last = Engine.load(root)
    assert last.trie.num_items == row["catalog"] + num_new
    return row


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--catalog", type=int, default=100_000, help="items before")
    parser.add_argument("--items", type=int, default=100_000, help="items that are added")
    parser.add_argument("--batch", type=int, default=0, help="items of a call; 0: all")
    parser.add_argument("--quick", action="store_true", help="a tenth of both")
    args = parser.parse_args()
    warnings.simplefilter("ignore", UserWarning)  # random titles are like no others
    share = 10 if args.quick else 1
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "run")
        make_run(root, args.catalog // share)
        row = measure(root, args.items // share, args.batch)
    row |= {"threads": torch.get_num_threads(), "cpu": platform.processor() or platform.machine()}
    row["load_average"] = round(os.getloadavg()[0], 1)
    print(json.dumps(row))


if __name__ == "__main__":
    main()
