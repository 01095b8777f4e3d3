"""What is fuzzed: every loader of a file, its valid seed files, and how they are damaged."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import mutations as m
import numpy as np
from backbone_targets import backbone_targets
from target import Target, one

from store_engine._C import ItemTrie
from store_engine.collaborative.evidence import Evidence, Mix
from store_engine.config import (
    Config,
    DataConfig,
    TrainConfig,
    dump_config,
    load_config,
)
from store_engine.data.catalog import Catalog
from store_engine.data.histories import Histories
from store_engine.data.readers import EventRules, read_interactions, read_items
from store_engine.data.tables import table as _table  # noqa: F401  loaded once, before the children
from store_engine.files.json_file import read_json
from store_engine.files.regular import parse_errors
from store_engine.files.token_file import TokenFile
from store_engine.prepare.recipe import Recipe
from store_engine.prepare.rules import Rules
from store_engine.runs.inspect_run import inspect_run
from store_engine.runs.run_directory import RunDirectory, RunOrigin
from store_engine.sid.codebook_report import codebook_report
from store_engine.sid.item_features import ItemVectors, fit_features
from store_engine.sid.quantizers.item_clusters import ItemClusters
from store_engine.sid.quantizers.parallel import ParallelQuantizer
from store_engine.sid.quantizers.quantizer import FitSettings
from store_engine.sid.quantizers.residual import ResidualQuantizer
from store_engine.sid.sid_table import SidTable
from store_engine.training.distributed.deepspeed_setup import read_ds_config
from store_engine.training.distributed.progress import (
    Manifest,
    TrainProgress,
    read_manifest,
    write_manifest,
)
from store_engine.training.item_start import fit_to
from store_engine.training.log import read_log

IDS = tuple(f"item {n}" for n in range(12))


def available() -> list[Target]:
    """All targets whose libraries are installed."""
    return [*_tables(), *_our_files(), *_readers(), *backbone_targets()]


def _catalog() -> Catalog:
    titles = tuple(f"Title {n} é 日本" for n in range(len(IDS)))
    return Catalog(IDS, {"title": titles, "genre": tuple("ab" * (n % 3) for n in range(12))})


def _sids() -> np.ndarray:
    return np.random.default_rng(0).integers(0, (6, 300), (len(IDS), 2)).astype(np.int32)


def _tables() -> Iterator[Target]:
    """Arrays: npz, token files, the core's trie."""

    def histories(path: Path) -> None:
        loaded = Histories.load(path)
        [loaded[user].sum() for user in range(loaded.num_users)]

    offsets = np.array([0, 3, 3, 8])
    rows = np.arange(8, dtype=np.int32)
    users = Histories(("u1", "ü2", "日"), rows, offsets)
    yield one("histories", "histories.npz", histories, users.save, m.npz, m.npz, m.blind)

    def evidence(path: Path) -> None:
        loaded = Evidence.load(path)
        loaded.top([np.arange(min(3, loaded.num_items), dtype=np.int32)], 2, exclude_history=True)

    votes = np.array([1, 2, 0], dtype=np.int32), np.ones(3, dtype=np.float32)
    matrix = Evidence(np.array([0, 2, 2, 3]), *votes, 0.5, 20, {"graph": 1.0}, Mix("unit", 1.0))
    yield one("evidence", "evidence.npz", evidence, matrix.save, m.npz, m.npz, m.blind)

    def item_vectors(path: Path) -> None:
        loaded = ItemVectors.load(path)
        fit_to(loaded.space, 4)

    vectors = ItemVectors(np.ones((3, 2), np.float32), np.zeros((3, 4), np.float32))
    yield one("item vectors", "item_vectors.npz", item_vectors, vectors.save, m.npz, m.npz, m.blind)

    def sid_tables(root: Path) -> None:
        rng = np.random.default_rng(0)
        mean, pca = rng.random((2, 8), np.float32), rng.random((2, 4, 8), np.float32)
        quantizer = ParallelQuantizer(mean, pca, rng.random((2, 6, 4), np.float32))
        vectors, settings = rng.random((20, 2, 8), np.float32), FitSettings(2, 6, 4, 2, 0)
        fitted = [kind.fit(vectors, settings) for kind in (ResidualQuantizer, ItemClusters)]
        for index, one_of in enumerate((None, quantizer, *fitted)):
            (root / str(index)).mkdir()
            shares = None if one_of is None else np.array([0.5])
            SidTable(_sids(), (6, 300), IDS, one_of, shares).save(root / str(index) / "sids.npz")
        (root / "items").mkdir()
        features = fit_features(vectors, 3)
        SidTable(_sids(), (6, 300), IDS, fitted[1], features=features).save(
            root / "items" / "sids.npz"
        )

    def sid_table(folder: Path) -> None:
        table = SidTable.load(folder / "sids.npz")
        if table.codebook_sizes and max(table.codebook_sizes) <= 1 << 16 and len(table.sids):
            ItemTrie(np.ascontiguousarray(table.sids), list(table.codebook_sizes))
            codebook_report(table, 2)
        if table.quantizer is not None:
            table.quantizer.lift()
        if table.features is not None and table.features.mean.size < 1 << 12:
            table.features(np.zeros((1, 1, table.features.mean.size), np.float32))

    yield Target("sids", sid_table, sid_tables, {"sids.npz": (m.npz, m.npz, m.blind)})

    def token_file(folder: Path) -> None:
        loaded = TokenFile(folder)
        [int(loaded[document].sum()) for document in range(len(loaded))]
        loaded.verify()

    def token_files(root: Path) -> None:
        TokenFile.write(root / "a", [[1, 2, 3], [], [70000]])
        TokenFile.write(root / "b", [[1, 2], [255]] * 20, "uint16")

    damages = {"tokens.bin": (m.blind,), "offsets.npy": (m.npy, m.blind)}
    damages["checksums.json"] = (m.json_tree, m.json_tree, m.text, m.blind)
    yield Target("token file", token_file, token_files, damages)

    def trie(path: Path) -> None:
        with parse_errors(path, "a readable trie"):
            loaded = ItemTrie.load(str(path))
        for level in range(loaded.num_levels):
            loaded.level(level)
        loaded.leaf_rows(np.arange(loaded.level_sizes[-1], dtype=np.int64))

    def save_trie(path: Path) -> None:
        ItemTrie(_sids(), [6, 300]).save(str(path))

    yield one("trie", "trie.bin", trie, save_trie, m.blind)


def _our_files() -> Iterator[Target]:
    """JSON, JSON lines, TOML: catalogue, logs, configs, manifests."""

    def write(value: object) -> Callable[[Path], object]:
        return lambda path: path.write_text(json.dumps(value))

    tree = (m.json_tree, m.json_tree, m.text, m.blind)
    lines = (m.json_lines, m.json_lines, m.text, m.blind)
    value = {"a": [1, 2.5, "text", None, {"b": True}], "c": {"d": [[], {}]}, "é": "\u2028"}
    yield one("json", "value.json", read_json, write(value), *tree)
    recipe = Recipe(rules=Rules(positive="a > 0 and (b = 'x' or c < 1)")).as_json()
    yield one("recipe", "recipe.json", Recipe.read, write(recipe), *tree)
    yield one("catalogue", "items.jsonl", Catalog.load, _catalog().save, *lines)

    def log(path: Path) -> None:
        for number in range(5):
            with path.open("a") as file:
                entry = {"stage": "tokenizer", "step": number, "loss": 0.5, "lr": 1e-3}
                file.write(json.dumps(entry) + "\n")

    yield one("train log", "train_log.jsonl", read_log, log, *lines)

    def config(path: Path) -> None:
        path.write_text(dump_config(Config()))

    yield one("config", "config.toml", load_config, config, m.text, m.text, m.blind)

    ds_config = {
        "zero_optimization": {"stage": 3, "offload_optimizer": {"device": "cpu"}},
        "bf16": {"enabled": "auto"},
        "gradient_clipping": "auto",
        "gradient_accumulation_steps": 1,
    }
    yield one(
        "DeepSpeed config",
        "ds.json",
        lambda path: read_ds_config(path, TrainConfig()),
        write(ds_config),
        *tree,
    )

    def manifest(path: Path) -> None:
        progress = TrainProgress("tokenizer", 3, 1, 0)
        write_manifest(path.parent, Manifest(progress, {f"{progress.tag}/x.pt": "0" * 64}))

    yield one(
        "checkpoint manifest",
        "latest.json",
        lambda path: read_manifest(path.parent),
        manifest,
        *tree,
    )

    def runs(root: Path) -> None:
        (root / "a").mkdir()
        origin = RunOrigin(
            Config(data=DataConfig(num_items=12)), "shop", {"/shop/items.csv": "0" * 64}
        )
        RunDirectory.create(
            root / "a" / "run", origin, lambda paths: _catalog().save(paths.items)
        ).close()

    def run(folder: Path) -> None:
        inspect_run(folder / "run")
        RunDirectory.open(folder / "run").read_config()

    damages = {"run/run.json": tree, "run/config.toml": (m.text,)}
    yield Target("run.json", run, runs, damages)


def _readers() -> Iterator[Target]:
    """The user's own tables, of items and of interactions."""
    header = ("item_id", "title", "genre")
    items = [(f"i{n}", f"Title {n}", '"quoted", é') for n in range(9)]
    events = [(f"u{n % 3}", f"i{n}", str(1_600_000_000 + n)) for n in range(9)]
    events_header = ("user_id", "item_id", "timestamp")
    catalog = Catalog(tuple(f"i{n}" for n in range(9)), {"title": ("T",) * 9})

    def delimited(rows: Sequence[Sequence[str]], comma: str, quote: bool) -> bytes:
        def cell(value: str) -> str:
            return '"' + value.replace('"', '""') + '"' if quote and comma in value else value

        return "".join(comma.join(map(cell, row)) + "\n" for row in rows).encode()

    def json_lines(names: Sequence[str], rows: Sequence[Sequence[str]]) -> bytes:
        return "".join(
            json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in rows
        ).encode()

    def write_parquet(path: Path, names: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns = dict(zip(names, zip(*rows, strict=True), strict=True))
        pq.write_table(pa.table({name: list(values) for name, values in columns.items()}), path)

    def write(names: Sequence[str], rows: Sequence[Sequence[str]]) -> Callable[[Path], object]:
        def to(path: Path) -> None:
            match path.suffix:
                case ".csv":
                    path.write_bytes(delimited([names, *rows], ",", True))
                case ".tsv":
                    path.write_bytes(delimited([names, *rows], "\t", False))
                case ".jsonl":
                    path.write_bytes(json_lines(names, rows))
                case ".parquet":
                    write_parquet(path, names, rows)
                case _:
                    typed = [f"{name}:token" for name in names]
                    path.write_bytes(delimited([typed, *rows], "\t", False))

        return to

    def load_items(path: Path) -> None:
        read_items(path, "item_id", ("title", "genre"))

    def load_events(path: Path) -> None:
        read_interactions(path, catalog, rules=EventRules(min_events=1))

    damages = {".jsonl": (m.json_lines, m.text, m.blind), ".parquet": (m.blind,)}
    for suffix in (".csv", ".tsv", ".jsonl", ".parquet", ".item", ".inter"):
        damage = damages.get(suffix, (m.text, m.text, m.blind))
        if suffix != ".inter":
            name = f"items{suffix}"
            yield one(name, name, load_items, write(header, items), *damage)
        if suffix != ".item":
            name = f"events{suffix}"
            yield one(name, name, load_events, write(events_header, events), *damage)
