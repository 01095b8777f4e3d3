"""What a run is made of: frozen dataclasses, read from TOML, changed by `section.key=value`.

Every field has a default, so a config file states only what it changes. Unknown names and wrong
types are refused: a typo never trains for an hour.
"""

import dataclasses
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from store_engine.errors import InputError

LoraTarget = Literal["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]


@dataclass(frozen=True)
class DataConfig:
    """Which catalogue and histories, and how they are read."""

    name: Literal["ml-100k", "synthetic", "files"] = "ml-100k"
    path: str = ""  # folder; "" = the cache for ml-100k
    items: str = "items.csv"  # within path; csv, tsv, parquet, jsonl or RecBole .item
    interactions: str = "interactions.csv"
    item_id: str = "item_id"  # column names
    user_id: str = "user_id"
    timestamp: str = "timestamp"
    text_fields: tuple[str, ...] = ("movie_title", "class", "release_year")  # first = title
    min_events: int = 3  # users with fewer are dropped and counted
    ties: Literal["file", "shuffle"] = "file"  # order of events with one timestamp
    seed: int = 0
    text_vocab_size: int = 2048
    max_text_tokens: int = 64  # an attribute is cut after this many
    max_history: int = 50  # items of history the recommender sees
    num_items: int = 200  # the last three: synthetic only
    num_users: int = 400
    num_topics: int = 10


@dataclass(frozen=True)
class ModelConfig:
    """The one LLM: a Llama-family decoder. With a backbone all but `dropout` comes from it."""

    hidden_size: int = 128
    num_layers: int = 4
    num_heads: int = 4
    num_kv_heads: int = 2
    head_dim: int = 32
    intermediate_size: int = 384
    rope_theta: float = 10000.0
    rope_scaling: Literal["none", "llama3"] = "none"
    rope_factor: float = 8.0  # this one and the next three: llama3 only
    rope_low_frequency: float = 1.0  # in waves per rope_original_tokens
    rope_high_frequency: float = 4.0
    rope_original_tokens: int = 8192
    norm_eps: float = 1e-6
    attention_bias: Literal["none", "qkv", "all"] = "none"  # Qwen2 has qkv
    qk_norm: bool = False  # Qwen3: an RMSNorm on every head's q and k
    tie_text_head: bool = True
    dropout: float = 0.1
    backbone: str = ""  # pretrained: a Hugging Face folder or a .gguf; "" = from scratch


@dataclass(frozen=True)
class TokenizerConfig:
    """Stage 1: items become dense tokens, dense tokens become codes."""

    num_codes: int = 3  # palette size; codes per item before a collision suffix
    codebook_size: int = 64
    collisions: Literal["suffix", "reassign", "share"] = "suffix"
    pca_dim: int = 32
    kmeans_iterations: int = 25
    epochs: int = 20  # passes over the catalogue
    items_per_step: int = 64
    lr: float = 2e-3
    contrastive_weight: float = 0.1  # 0 switches LAMIA's loss off
    contrastive_temperature: float = 0.07


@dataclass(frozen=True)
class RecommenderConfig:
    """Stage 2: the same weights learn to write the next item's codes."""

    epochs: int = 20  # passes over the training histories
    tokens_per_step: int = 8192  # over all ranks
    lr: float = 2e-3
    alignment: float = 1.0  # text-to-token: passes over the items per epoch; 0 switches it off
    reconstruction: float = 0.0  # token-to-text: passes over the items per epoch
    scoring: float = 0.0  # YES or NO to a candidate: questions per user and epoch
    init_codes: Literal["centroids", "normal"] = "centroids"


@dataclass(frozen=True)
class TrainConfig:
    """What both stages share."""

    seed: int = 0
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"  # auto: bf16 where the machine has it
    weight_decay: float = 0.01
    beta2: float = 0.98
    grad_clip: float = 1.0
    schedule: Literal["cosine", "wsd"] = "cosine"  # wsd: warm-up, stable, decay
    warmup: float = 0.05  # share of the steps
    decay: float = 0.2  # share of the steps, wsd only
    min_lr: float = 0.05  # the schedule's end, as a share of lr
    save_every: int = 100  # steps
    eval_every: int = 0  # steps between validation measurements in stage 2; 0 = never
    eval_users: int = 1000  # users of a validation measurement, a fixed sample
    keep: Literal["best", "last"] = "last"  # the weights that stage 2 ends with
    patience: int = 0  # measurements without a better one, after which stage 2 stops; 0 = never
    threads: int = 0  # per rank; 0 = cores / ranks
    fused_loss: bool = True  # False: materialise the logits; slower, the same losses
    activation_checkpointing: bool = False  # stage 2: keep the layers' inputs, recompute the rest
    tensorboard: bool = False  # write events beside train_log.jsonl; needs the extra `watch`
    lora_rank: int = 0  # 0 trains every weight; else adapters of a backbone, which stays frozen
    lora_alpha: int = 16  # an adapter's output is scaled by lora_alpha / lora_rank
    lora_dropout: float = 0.0
    lora_targets: tuple[LoraTarget, ...] = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")


@dataclass(frozen=True)
class DecodingConfig:
    """How recommendations are made. All of it can be changed after training."""

    beam_width: int = 50
    normalize: Literal["codebook", "children"] = "codebook"  # the codes that a softmax runs over
    exclude_history: bool = False  # never recommend an item of the history
    batch_size: int = 128
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"  # auto: what decodes faster here
    prefix_cache_mib: float = 256.0  # for the contexts of earlier requests; 0 keeps none


@dataclass(frozen=True)
class EvalConfig:
    """How a run is measured: in float32, so that figures do not depend on the machine."""

    max_k: int = 20  # length of each ranking


@dataclass(frozen=True)
class Config:
    """A whole run."""

    run_dir: str = "runs/run"
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    recommender: RecommenderConfig = field(default_factory=RecommenderConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    decoding: DecodingConfig = field(default_factory=DecodingConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)

    def __post_init__(self) -> None:
        """Refuses what no part of the engine could work with."""
        _require(self.model.num_heads % self.model.num_kv_heads == 0, self._heads_message())
        _require(self.model.head_dim % 2 == 0, "model.head_dim must be even (RoPE rotates pairs)")
        _require(
            self.decoding.beam_width >= self.eval.max_k,
            f"decoding.beam_width must be at least eval.max_k, "
            f"got {self.decoding.beam_width} < {self.eval.max_k}",
        )
        _require(self.data.min_events >= 3, "data.min_events must be at least 3 (leave-one-out)")
        _require(0 <= self.model.dropout < 1, "model.dropout must be in [0, 1)")
        _require(
            self.decoding.prefix_cache_mib >= 0, "decoding.prefix_cache_mib must not be negative"
        )
        rank, targets = self.train.lora_rank, self.train.lora_targets
        _require(rank >= 0, f"train.lora_rank must not be negative, got {rank}")
        _require(
            rank == 0 or bool(self.model.backbone and targets),
            "train.lora_rank needs a model.backbone to adapt, and train.lora_targets",
        )
        _require(0 <= self.train.lora_dropout < 1, "train.lora_dropout must be in [0, 1)")
        for name in ("alignment", "reconstruction", "scoring"):
            passes = getattr(self.recommender, name)
            _require(passes >= 0, f"recommender.{name} must not be negative, got {passes}")
        measured = self.train.eval_every > 0
        _require(
            measured or (self.train.keep == "last" and self.train.patience == 0),
            "train.keep = 'best' and train.patience need train.eval_every > 0",
        )
        for name in ("warmup", "decay", "min_lr"):
            share = getattr(self.train, name)
            _require(0 <= share <= 1, f"train.{name} must be in [0, 1], got {share}")
        for name, value in _positive_fields(self):
            _require(value > 0, f"{name} must be positive, got {value}")

    def _heads_message(self) -> str:
        heads, kv_heads = self.model.num_heads, self.model.num_kv_heads
        return f"model.num_heads must be a multiple of num_kv_heads, got {heads} and {kv_heads}"


def load_config(
    path: str | Path | None = None,
    overrides: Sequence[str] = (),
    backbone_sizes: Callable[[str], dict[str, Any]] | None = None,
) -> Config:
    """Reads a config.

    Args:
        path: A TOML file, or None for the defaults.
        overrides: `section.key=value`; the value is TOML, a bare word counts as a string.
        backbone_sizes: Gives the values of `ModelConfig` that a backbone decides. None: they are
            all stated, as in the config of a run, which does not need its backbone any more.

    Raises:
        InputError: The file is missing or no TOML, a name is unknown, a value does not fit, or
            it contradicts the backbone.
    """
    tree: dict[str, Any] = {}
    if path is not None:
        try:
            tree = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(f"config {path}: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise InputError(f"config {path}: not valid TOML: {error}") from error
    for override in overrides:
        _apply_override(tree, override)
    model = tree.get("model")
    if backbone_sizes is not None and isinstance(model, dict) and model.get("backbone"):
        tree["model"] = _with_sizes(model, backbone_sizes(str(model["backbone"])))
    config: Config = _build(Config, tree, "")
    return config


def dump_config(config: Config) -> str:
    """Writes `config` as TOML, every value stated; `load_config` reads it back."""
    top = [f for f in dataclasses.fields(config) if not dataclasses.is_dataclass(f.type)]
    lines = [f"{f.name} = {_toml(getattr(config, f.name))}" for f in top]
    for section in dataclasses.fields(config):
        if section not in top:
            lines += ["", f"[{section.name}]"]
            values = vars(getattr(config, section.name))
            lines += [f"{name} = {_toml(value)}" for name, value in values.items()]
    return "\n".join(lines) + "\n"


def _with_sizes(model: dict[str, Any], sizes: dict[str, Any]) -> dict[str, Any]:
    """The stated values of `ModelConfig` and those of its backbone, which must agree."""
    for name, value in model.items():
        if name in sizes and value != sizes[name]:
            raise InputError(
                f"model.{name} = {value!r} contradicts {model['backbone']}, which has "
                f"{sizes[name]!r}; leave it out"
            )
    return model | sizes


def _apply_override(tree: dict[str, Any], override: str) -> None:
    name, equals, text = override.partition("=")
    if not equals or not name:
        raise InputError(f"an override must read section.key=value, got '{override}'")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *sections, key = name.split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
        if not isinstance(tree, dict):
            raise InputError(f"'{override}': {section} is a value, not a section")
    tree[key] = value


def _build(cls: Any, tree: Any, name: str) -> Any:
    """Makes `cls` from parsed TOML, checking every name and type on the way."""
    if not isinstance(tree, dict):
        raise InputError(f"{name} must be a section, got {tree!r}")
    hints = get_type_hints(cls)
    prefix = f"{name}." if name else ""
    for key in tree:
        if key not in hints:
            raise InputError(f"unknown config key {prefix}{key}; known: {', '.join(hints)}")
    values = {key: _coerce(hints[key], value, prefix + key) for key, value in tree.items()}
    return cls(**values)


def _coerce(hint: Any, value: Any, name: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return _build(hint, value, name)
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise InputError(f"{name} must be one of {', '.join(get_args(hint))}, got {value!r}")
        return value
    if get_origin(hint) is tuple:
        if not isinstance(value, list):
            raise InputError(f"{name} must be a list, got {value!r}")
        return tuple(_coerce(get_args(hint)[0], v, name) for v in value)
    if get_origin(hint) in (Union, UnionType):
        raise TypeError(f"{name}: unions are not supported in a config")
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        raise InputError(f"{name} must be {hint.__name__}, got {value!r}")
    if hint is float and not abs(value) < float("inf"):
        raise InputError(f"{name} must be finite, got {value}")
    return value


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        escaped = "".join(
            c if c.isprintable() and c not in '"\\' else f"\\u{ord(c):04x}" for c in value
        )
        return f'"{escaped}"'
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return repr(value)


def _positive_fields(config: Config) -> list[tuple[str, float]]:
    """Sizes and counts: every int of the sections but those that may be 0."""
    free = {"seed", "threads", "epochs", "lora_rank", "eval_every", "patience"}
    sections = ("data", "model", "tokenizer", "recommender", "train", "decoding", "eval")
    return [
        (f"{section}.{name}", value)
        for section in sections
        for name, value in vars(getattr(config, section)).items()
        if type(value) is int and name not in free
    ]


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise InputError(message)
