"""What a run is made of: frozen dataclasses, read from TOML, changed by `section.key=value`.

Every field has a default, so a config file states only what it changes. Unknown names, wrong types
and values out of range are refused: a typo never trains for an hour.
"""

from store_engine.config.run_config import Change, Config, changes
from store_engine.config.sections import (
    DataConfig,
    DecodingConfig,
    EvalConfig,
    EvidenceConfig,
    LoraTarget,
    ModelConfig,
    RecommenderConfig,
    TokenizerConfig,
    TrainConfig,
)
from store_engine.config.toml_file import (
    build_config,
    dump_config,
    load_config,
    read_config_tree,
    with_overrides,
)

__all__ = [
    "Change",
    "Config",
    "DataConfig",
    "DecodingConfig",
    "EvalConfig",
    "EvidenceConfig",
    "LoraTarget",
    "ModelConfig",
    "RecommenderConfig",
    "TokenizerConfig",
    "TrainConfig",
    "build_config",
    "changes",
    "dump_config",
    "load_config",
    "read_config_tree",
    "with_overrides",
]
