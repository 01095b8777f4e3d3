"""The config of a whole run, and what of it may be changed later."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from store_engine.config.sections import (
    DataConfig,
    DecodingConfig,
    EvalConfig,
    EvidenceConfig,
    ModelConfig,
    RecommenderConfig,
    TokenizerConfig,
    TrainConfig,
)
from store_engine.config.settings import is_runtime, require, setting


@dataclass(frozen=True)
class Config:
    """A whole run."""

    run_dir: str = setting("runs/run", is_runtime=True)
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    recommender: RecommenderConfig = field(default_factory=RecommenderConfig)
    evidence: EvidenceConfig = field(default_factory=EvidenceConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    decoding: DecodingConfig = field(default_factory=DecodingConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)

    def __post_init__(self) -> None:
        """Refuses sections that do not fit each other; each one has checked itself."""
        width, max_k = self.decoding.beam_width, self.eval.max_k
        require(
            width >= max_k,
            f"decoding.beam_width must be at least eval.max_k, got {width} < {max_k}",
        )
        require(
            self.train.lora_rank == 0 or bool(self.model.backbone),
            "train.lora_rank needs a model.backbone to adapt",
        )
        has_rows, recommender = self.tokenizer.last_level == "item", self.recommender
        require(
            recommender.history == "codes" or recommender.decoder == "heads",
            "recommender.history = 'items' needs recommender.decoder = 'heads': a position that is "
            "an item has no place for the codes that a transformer writes step by step",
        )
        require(
            has_rows or recommender.item_softmax == 0,
            "recommender.item_softmax needs tokenizer.last_level = 'item'",
        )
        require(
            recommender.window_overlap < self.data.max_history,
            f"recommender.window_overlap must be below data.max_history, got "
            f"{recommender.window_overlap} and {self.data.max_history}",
        )


class Change(NamedTuple):
    """A key that has another value in another config."""

    key: str  # "section.name"
    old: Any
    new: Any
    is_runtime: bool  # the run stays what it is


def changes(old: Config, new: Config) -> Iterator[Change]:
    """Lists the keys in which two configs differ."""
    for declared in dataclasses.fields(Config):
        before, after = getattr(old, declared.name), getattr(new, declared.name)
        if not dataclasses.is_dataclass(before):
            if before != after:
                yield Change(declared.name, before, after, is_runtime(declared))
            continue
        for inner in dataclasses.fields(before):
            was, is_now = getattr(before, inner.name), getattr(after, inner.name)
            if was != is_now:
                yield Change(f"{declared.name}.{inner.name}", was, is_now, is_runtime(inner))
