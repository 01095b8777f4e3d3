"""What is fuzzed: every loader of a file, its valid seed files, and how they are damaged.

All names of the package are imported here and nowhere else in this folder.
"""

import importlib.util
import itertools
import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import mutations as m
import numpy as np
import torch

from store_engine._C import ItemTrie
from store_engine.config import (
    Config,
    DataConfig,
    ModelConfig,
    TrainConfig,
    dump_config,
    load_config,
)
from store_engine.data.catalog import Catalog
from store_engine.data.histories import Histories
from store_engine.data.readers import EventRules, read_interactions, read_items
from store_engine.data.tables import table as _table  # noqa: F401  loaded once, before the children
from store_engine.errors import InputError
from store_engine.files.json_file import read_json
from store_engine.files.regular import parse_errors
from store_engine.files.token_file import TokenFile
from store_engine.model.backbone import Backbone
from store_engine.model.hf_layout import transformer_layout
from store_engine.model.weights import load_weights, save_weights
from store_engine.runs.inspect_run import inspect_run
from store_engine.runs.run_directory import RunDirectory, RunOrigin
from store_engine.sid.quantize import ParallelQuantizer
from store_engine.sid.sid_table import SidTable
from store_engine.text.text_vocabulary import TextVocabulary
from store_engine.text.vocabulary import backbone_vocabulary
from store_engine.training.deepspeed_setup import read_ds_config
from store_engine.training.log import read_log
from store_engine.training.progress import Manifest, TrainProgress, read_manifest, write_manifest

HAS_TOKENIZERS = importlib.util.find_spec("tokenizers") is not None
HAS_GGUF = importlib.util.find_spec("gguf") is not None
TEXT = "The Red Ball of Ünïcödé 日本 \u2603, 12345 in 2014's <|endoftext|>"
IDS = tuple(f"item {n}" for n in range(12))


@dataclass(frozen=True)
class Target:
    """One loader.

    Args:
        name: As on the command line.
        load: Loads a folder's files and uses what came out.
        make_seeds: Writes valid files, each variant into a folder of its own in the one given.
        mutations: File name -> the damages that it may have.
        allowed: What `load` may raise.
    """

    name: str
    load: Callable[[Path], object]
    make_seeds: Callable[[Path], None]
    mutations: Mapping[str, Sequence[m.Mutation]]
    allowed: tuple[type[Exception], ...] = (InputError, OSError)


def one(
    name: str,
    file: str,
    load: Callable[[Path], object],
    write: Callable[[Path], object],
    *mutations: m.Mutation,
) -> Target:
    """A target of one file and one variant."""

    def make_seeds(root: Path) -> None:
        (root / "a").mkdir()
        write(root / "a" / file)

    return Target(name, lambda folder: load(folder / file), make_seeds, {file: mutations})


def available() -> list[Target]:
    """All targets whose libraries are installed."""
    found = [*_tables(), *_our_files(), *_readers(), _weights(), _hf_folder(), _sentencepiece()]
    if HAS_TOKENIZERS:
        found.append(_tokenizer_json())
    if HAS_GGUF:
        found.append(_gguf())
    return found


def broken() -> list[Target]:
    """Loaders that fail, each in one way: the harness must find them."""

    def raises(path: Path) -> None:
        raise ValueError("not an InputError")

    failures: dict[str, Callable[[Path], object]] = {
        "crash": lambda path: os.kill(os.getpid(), signal.SIGSEGV),
        "exit": lambda path: os._exit(0),
        "hang": lambda path: all(True for _ in itertools.count()),
        "wait": lambda path: time.sleep(3600),
        "memory": lambda path: bytes(1 << 33),
        "exception": raises,
    }

    def fails(failure: Callable[[Path], object]) -> Callable[[Path], object]:
        return lambda path: failure(path) if path.read_bytes() != b"{}" else None

    return [
        one(f"broken {name}", "x", fails(failure), lambda path: path.write_text("{}"), m.blind)
        for name, failure in failures.items()
    ]


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

    def sid_tables(root: Path) -> None:
        rng = np.random.default_rng(0)
        mean, pca = rng.random((2, 8), np.float32), rng.random((2, 4, 8), np.float32)
        quantizer = ParallelQuantizer(mean, pca, rng.random((2, 6, 4), np.float32))
        for name, one_of in (("plain", None), ("quantizer", quantizer)):
            (root / name).mkdir()
            SidTable(_sids(), (6, 300), IDS, one_of).save(root / name / "sids.npz")

    def sid_table(folder: Path) -> None:
        table = SidTable.load(folder / "sids.npz")
        if table.codebook_sizes and max(table.codebook_sizes) <= 1 << 16 and len(table.sids):
            ItemTrie(np.ascontiguousarray(table.sids), list(table.codebook_sizes))

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


def _weights() -> Target:
    def model() -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.LayerNorm(3))

    def load(path: Path) -> None:
        load_weights(model(), path)

    def write(path: Path) -> None:
        save_weights(model().state_dict(), path)

    return one("weights", "model.safetensors", load, write, m.safetensors, m.safetensors, m.blind)


_MODEL = ModelConfig(
    hidden_size=8,
    num_layers=1,
    num_heads=2,
    num_kv_heads=1,
    head_dim=4,
    intermediate_size=8,
    tie_text_head=False,
)


def _tensors() -> dict[str, torch.Tensor]:
    """Random weights of a tiny Llama, by Hugging Face's names."""
    shapes = {"model.embed_tokens.weight": (20, 8), "lm_head.weight": (20, 8)}
    for _, parts in transformer_layout(_MODEL):
        shapes |= parts
    return {name: torch.rand(shape) for name, shape in shapes.items()}


def _hf_folder() -> Target:
    config = {
        "model_type": "llama",
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 4,
        "intermediate_size": 8,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
    }
    llama3 = {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0}
    llama3 |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 64}

    def make_seeds(root: Path) -> None:
        tensors = _tensors()
        for name, changes in (("one", {}), ("shards", {"rope_parameters": llama3})):
            (root / name).mkdir()
            (root / name / "config.json").write_text(json.dumps(config | changes))
        save_weights(tensors, root / "one" / "model.safetensors")
        names = list(tensors)
        shards = {"a.safetensors": names[:4], "b.safetensors": names[4:]}
        for file, part in shards.items():
            save_weights({name: tensors[name] for name in part}, root / "shards" / file)
        index = {"weight_map": {name: file for file, part in shards.items() for name in part}}
        (root / "shards" / "model.safetensors.index.json").write_text(json.dumps(index))

    def load(folder: Path) -> None:
        backbone = Backbone(folder)
        for _ in backbone.weights(backbone.vocab_size):
            pass

    tree, tensors = (m.json_tree, m.json_tree, m.text, m.blind), (m.safetensors, m.blind)
    damages = {"config.json": tree, "model.safetensors.index.json": tree}
    damages |= dict.fromkeys(("model.safetensors", "a.safetensors", "b.safetensors"), tensors)
    return Target("Hugging Face folder", load, make_seeds, damages)


def _sentencepiece() -> Target:
    def write(path: Path) -> None:
        TextVocabulary.train([TEXT, *_catalog().fields["title"]] * 3, 300).save(path.parent)

    def load(path: Path) -> None:
        vocabulary = TextVocabulary.load(path)
        vocabulary.decode(vocabulary.encode(TEXT))
        vocabulary.encode("")

    return one("SentencePiece model", "text.model", load, write, m.blind)


def _tokenizer_json() -> Target:
    """Tokenizers of the common kinds; the loader may refuse a kind, but not crash on it."""

    def make_seeds(root: Path) -> None:
        import tokenizers
        from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

        special = ["<|endoftext|>", "[UNK]"]
        byte_level = tokenizers.Tokenizer(models.BPE())
        byte_level.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        byte_level.decoder = decoders.ByteLevel()
        byte_level.post_processor = processors.ByteLevel()
        byte_level.normalizer = normalizers.NFC()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=300, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        )
        byte_level.train_from_iterator([TEXT] * 5, trainer)
        llama = tokenizers.Tokenizer(
            models.BPE({"<unk>": 0, "a": 1, "▁": 2, "▁a": 3, "<0x41>": 4, "<|endoftext|>": 5},
                       [("▁", "a")], unk_token="<unk>", byte_fallback=True, fuse_unk=True)
        )  # fmt: skip
        llama.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
        llama.decoder = decoders.Sequence(
            [
                decoders.Replace("▁", " "),
                decoders.ByteFallback(),
                decoders.Fuse(),
                decoders.Strip(" ", 1, 0),
            ]
        )
        qwen = tokenizers.Tokenizer.from_str(byte_level.to_str())
        qwen.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(tokenizers.Regex(r"\p{N}{1,3}|\s+(?!\S)|\p{L}+"), "isolated"),
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        for name, tokenizer in (("bytes", byte_level), ("llama", llama), ("qwen", qwen)):
            (root / name).mkdir()
            tokenizer.save(str(root / name / "tokenizer.json"))
            config = {"eos_token": "<|endoftext|>", "bos_token": None}
            (root / name / "tokenizer_config.json").write_text(json.dumps(config))

    def load(folder: Path) -> None:
        vocabulary = backbone_vocabulary(folder)
        vocabulary.decode(vocabulary.encode(TEXT))
        vocabulary.encode("")
        vocabulary.save(folder)

    tree = (m.json_tree, m.json_tree, m.json_tree, m.text, m.blind)
    return Target(
        "tokenizer.json", load, make_seeds, {"tokenizer.json": tree, "tokenizer_config.json": tree}
    )


def _gguf() -> Target:
    def write(path: Path) -> None:
        import gguf

        writer = gguf.GGUFWriter(path, "llama")
        for name, value in {
            "embedding_length": 8,
            "block_count": 1,
            "feed_forward_length": 8,
            "attention.head_count": 2,
            "attention.head_count_kv": 1,
            "attention.key_length": 4,
        }.items():
            writer.add_uint32(f"llama.{name}", value)
        writer.add_layer_norm_rms_eps(1e-6)
        writer.add_rope_freq_base(10000.0)
        tokens = [*map(chr, range(97, 114)), "ab", "<|endoftext|>", "!"]
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("smollm")
        writer.add_token_list(tokens[:20])
        writer.add_token_types([1] * 18 + [3, 1])
        writer.add_token_merges(["a b"])
        writer.add_eos_token_id(18)
        names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 1)
        for name, tensor in _tensors().items():
            writer.add_tensor(names.get_name(name, (".weight", ".bias")), tensor.numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()

    def load(path: Path) -> None:
        backbone = Backbone(path)
        for _ in backbone.weights(backbone.vocab_size):
            pass
        vocabulary = backbone.vocabulary()
        vocabulary.decode(vocabulary.encode("abc"))

    return one("gguf", "model.gguf", load, write, m.blind)
