"""What a sweep runs: a TOML file of variants of a config, each trained with every seed.

configs = ["configs/beauty.toml"]     # of every variant; a later file overrides an earlier one
ds_config = "configs/zero0.json"
seeds = [0, 1, 2]
folder = "runs/sweeps/beauty"         # by default runs/sweeps/NAME OF THE FILE
overrides = ["train.eval_every=250"]  # of every variant

[variants]
base = []
wider = ["model.hidden_size=192"]
papers = { configs = ["configs/beauty.toml", "configs/presets/store.toml"] }
papers_wider = { base = "papers", overrides = ["model.hidden_size=192"], title = "papers', 192" }

[grid]                                # one more variant for each combination of values
"recommender.lr" = [1e-3, 2e-3]
"model.dropout" = [0.2, 0.3]
"""

import dataclasses
import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from store_engine.config import Config, build_config, read_config_tree, with_overrides
from store_engine.errors import InputError, shown
from store_engine.files.regular import read_regular

_KEYS = ("configs", "ds_config", "seeds", "folder", "overrides", "variants", "grid", "table")
# a name becomes a folder's
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.,=+-]{0,99}")
_MAX_TRIALS = 10_000
_MAX_DS_CONFIG = 1 << 20


@dataclass(frozen=True)
class Variant:
    """A config with changes."""

    name: str
    title: str  # for people
    configs: tuple[str, ...]  # TOML files, a later one overrides an earlier one
    overrides: tuple[str, ...]  # section.key=value


@dataclass(frozen=True)
class Trial:
    """One training: a variant with a seed."""

    variant: Variant
    seed: int
    ds_config: str
    settings: str  # digest of all that is stated: another digest is another trial
    run_dir: Path

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"{self.variant.name}, seed {self.seed}"

    @property
    def overrides(self) -> tuple[str, ...]:
        """Those of the variant, and the seed."""
        return (*self.variant.overrides, f"train.seed={self.seed}")

    def config(self) -> Config:
        """Builds the config that the training will have, apart from where its data is.

        Raises:
            InputError: A file is missing, or a value does not fit.
        """
        return with_overrides(build_config(_merged(self.variant.configs)), self.overrides)


@dataclass(frozen=True)
class Plan:
    """All that a sweep runs, variant by variant."""

    name: str
    folder: Path
    variants: tuple[Variant, ...]
    trials: tuple[Trial, ...]
    table: dict[str, Any] = field(default_factory=dict)  # how results are printed; not ours


def read_plan(path: str | Path) -> Plan:
    """Reads a plan and builds the config of every trial, so that no typo is found at night.

    Raises:
        InputError: The file is missing or no TOML, says something else than a plan does, or a
            trial's config does not fit together; the message names the trial.
    """
    tree = read_config_tree(path)
    if unknown := set(tree) - set(_KEYS):
        raise InputError(f"{path}: unknown {sorted(unknown)[0]!r}; a plan has {', '.join(_KEYS)}")
    configs, shared = _texts(path, tree, "configs", []), _texts(path, tree, "overrides", [])
    base = Variant("", "", configs, shared)
    variants = (*_listed(path, base, tree.get("variants", {})), *_grid(path, base, tree))
    names = [variant.name for variant in variants]
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(f"{path}: two variants are named {twice[0]}")
    if not variants:
        raise InputError(f"{path}: has no [variants] and no [grid]")
    name = Path(path).stem
    folder = Path(_text(path, tree, "folder", f"runs/sweeps/{name}"))
    ds_config = _text(path, tree, "ds_config", "configs/zero0.json")
    seeds = tree.get("seeds", [0])
    if not _is_list_of(int, seeds) or not seeds or len(set(seeds)) < len(seeds):
        raise InputError(f"{path}: seeds must be different whole numbers, got {shown(seeds)}")
    if len(seeds) * len(variants) > _MAX_TRIALS:
        raise InputError(f"{path}: at most {_MAX_TRIALS:,} trainings, these are more")
    trials = tuple(
        _trial(variant, seed, ds_config, folder)
        for variant, seed in itertools.product(variants, seeds)
    )
    return Plan(name, folder, variants, trials, _section(path, tree, "table"))


def _trial(variant: Variant, seed: int, ds_config: str, folder: Path) -> Trial:
    """A trial, whose config is built once to see that it can be."""
    stated = [_merged(variant.configs), list(variant.overrides), seed]
    layout = read_regular(ds_config, _MAX_DS_CONFIG).decode("utf-8", "replace")
    text = json.dumps([*stated, layout], sort_keys=True, default=str)
    settings = hashlib.sha256(text.encode()).hexdigest()[:12]
    run_dir = folder / variant.name / f"seed{seed}-{settings}"
    trial = Trial(variant, seed, ds_config, settings, run_dir)
    try:
        trial.config()
    except InputError as error:
        raise InputError(f"{trial.name}: {error}") from error
    return trial


def _merged(configs: Sequence[str]) -> dict[str, Any]:
    """The sections of several TOML files; a key of a later one overrides that of an earlier one."""
    merged: dict[str, Any] = {}
    for path in configs:
        for key, value in read_config_tree(path).items():
            earlier = merged.get(key)
            both = isinstance(value, dict) and isinstance(earlier, dict)
            merged[key] = earlier | value if both else value
    merged.pop("run_dir", None)  # a trial has its own
    return merged


def _listed(path: str | Path, base: Variant, section: Any) -> Iterator[Variant]:
    if not isinstance(section, dict):
        raise InputError(f"{path}: variants must be a section, got {shown(section)}")
    known = {"": base}
    for name, stated in section.items():
        where = f"{path}: variants.{name}"
        if not _NAME.fullmatch(name):
            raise InputError(f"{where}: a name has letters, digits and _.,=+- only, at most 100")
        own = {"overrides": stated} if isinstance(stated, list) else stated
        if not isinstance(own, dict) or set(own) - {"base", "configs", "overrides", "title"}:
            raise InputError(
                f"{where}: must be a list of section.key=value, "
                f"or {{ base, configs, overrides, title }}, got {shown(stated)}"
            )
        if own.get("base", "") not in known:
            raise InputError(f"{where}: base must be a variant above it, got {shown(own['base'])}")
        start = known[own.get("base", "")]
        known[name] = Variant(
            name,
            _text(where, own, "title", name.replace("_", " ")),
            _texts(where, own, "configs", list(start.configs)),
            (*start.overrides, *_texts(where, own, "overrides", [])),
        )
        yield known[name]


def _grid(path: str | Path, base: Variant, tree: dict[str, Any]) -> Iterator[Variant]:
    grid = _section(path, tree, "grid")
    if not grid:
        return
    for key, values in grid.items():
        if not isinstance(values, list) or not values:
            raise InputError(f"{path}: grid.{key} must be a list of values, got {shown(values)}")
    for values in itertools.product(*grid.values()):
        pairs = zip(grid, values, strict=True)
        changes = tuple(f"{key}={json.dumps(value)}" for key, value in pairs)
        name = ",".join(changes).replace('"', "")
        if not _NAME.fullmatch(name):
            raise InputError(f"{path}: {name} cannot name a variant; list it in [variants]")
        yield dataclasses.replace(
            base, name=name, title=name, overrides=(*base.overrides, *changes)
        )


def _section(path: str | Path, tree: dict[str, Any], key: str) -> dict[str, Any]:
    section = tree.get(key, {})
    if not isinstance(section, dict):
        raise InputError(f"{path}: {key} must be a section, got {shown(section)}")
    return section


def _text(path: str | Path, tree: dict[str, Any], key: str, default: str) -> str:
    value = tree.get(key, default)
    if not isinstance(value, str) or not value:
        raise InputError(f"{path}: {key} must be text, got {shown(value)}")
    return value


def _texts(path: str | Path, tree: dict[str, Any], key: str, default: list[str]) -> tuple[str, ...]:
    values = tree.get(key, default)
    if not _is_list_of(str, values):
        raise InputError(f"{path}: {key} must be a list of text, got {shown(values)}")
    return tuple(values)


def _is_list_of(kind: type, values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is kind for value in values)
