"""Configs from TOML and back, every name and type checked on the way."""

import dataclasses
import difflib
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from store_engine.config.run_config import Config
from store_engine.errors import InputError
from store_engine.files.regular import parse_errors, read_regular

_MAX_BYTES = 1 << 20


def load_config(
    paths: str | Path | Sequence[str | Path] | None = None,
    overrides: Sequence[str] = (),
    backbone_sizes: Callable[[str], dict[str, Any]] | None = None,
) -> Config:
    """Reads a config.

    Args:
        paths: A TOML file, or several: where two state a key, the later one counts. None: the
            defaults.
        overrides: `section.key=value`; the value is TOML, a bare word counts as a string.
        backbone_sizes: Gives the values of `ModelConfig` that a backbone decides. None: they are
            all stated, as in the config of a run, which does not need its backbone any more.

    Raises:
        InputError: The file is missing or no TOML, a name is unknown, a value does not fit, or
            it contradicts the backbone.
    """
    if isinstance(paths, str | Path):
        paths = [paths]
    tree: dict[str, Any] = {}
    for path in paths or ():
        _merge(tree, read_config_tree(path))
    for override in overrides:
        _apply_override(tree, override)
    _read_own_files(tree)
    model = tree.get("model")
    if backbone_sizes is not None and isinstance(model, dict) and model.get("backbone"):
        tree["model"] = _with_sizes(model, backbone_sizes(str(model["backbone"])))
    return build_config(tree)


def read_config_tree(path: str | Path) -> dict[str, Any]:
    """Reads the sections of a TOML file, unchecked.

    Raises:
        InputError: The file is missing or no TOML.
    """
    content = read_regular(path, _MAX_BYTES)
    with parse_errors(path, "valid TOML"):
        return tomllib.loads(content.decode("utf-8"))


def build_config(tree: dict[str, Any]) -> Config:
    """Makes a config from parsed TOML; what is not stated has its default.

    Raises:
        InputError: A name is unknown, or a value does not fit.
    """
    config: Config = build_checked(Config, tree, "")
    return config


def with_overrides(
    config: Config, overrides: Sequence[str], paths: Sequence[str | Path] = ()
) -> Config:
    """Changes values of a config.

    Args:
        config: The config.
        overrides: As for `load_config`.
        paths: TOML files whose values come before the overrides.

    Raises:
        InputError: A file is missing or no TOML, a name is unknown, or a value does not fit.
    """
    tree = tomllib.loads(dump_config(config))
    for path in paths:
        _merge(tree, read_config_tree(path))
    for override in overrides:
        _apply_override(tree, override)
    return build_config(tree)


def dump_config(config: Config) -> str:
    """Writes `config` as TOML, every value stated; `load_config` reads it back."""
    top = [f for f in dataclasses.fields(config) if not dataclasses.is_dataclass(f.type)]
    lines = [f"{f.name} = {to_toml(getattr(config, f.name))}" for f in top]
    for section in dataclasses.fields(config):
        if section not in top:
            lines += ["", f"[{section.name}]"]
            values = vars(getattr(config, section.name))
            lines += [f"{name} = {to_toml(value)}" for name, value in values.items()]
    return "\n".join(lines) + "\n"


def _merge(tree: dict[str, Any], later: dict[str, Any]) -> None:
    """Puts the values of another tree into `tree`, section by section."""
    for key, value in later.items():
        if isinstance(value, dict) and isinstance(tree.get(key), dict):
            tree[key] |= value
        else:
            tree[key] = value


def _read_own_files(tree: dict[str, Any]) -> None:
    """Reads the files of a folder that is named, and of their texts the title if none is."""
    data, tokenizer = tree.get("data"), tree.get("tokenizer")
    if not isinstance(data, dict):
        return
    has_sids = isinstance(tokenizer, dict) and tokenizer.get("sids_file")  # they lie there too
    if data.get("name") == "synthetic" and data.get("path") and not has_sids:
        data["name"] = "files"
    if data.get("name") == "files":
        data.setdefault("text_fields", ["title"])


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
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, [[[[...
        raise InputError(f"{name}: not a value: {str(error)[:200]}") from error
    *sections, key = name.split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
        if not isinstance(tree, dict):
            raise InputError(f"'{override}': {section} is a value, not a section")
    tree[key] = value


def build_checked(cls: Any, tree: Any, name: str) -> Any:
    """Makes a dataclass from parsed TOML or JSON, checking every name and type on the way.

    Args:
        cls: The dataclass; its fields are texts, numbers, booleans, literals, tuples of one type,
            or dataclasses. Each has a default.
        tree: What was parsed.
        name: Where it stands, for messages: "" is at the top.

    Raises:
        InputError: A name is unknown, or a value does not fit.
    """
    if not isinstance(tree, dict):
        raise InputError(f"{name} must be a section, got {_shown(tree)}")
    hints = get_type_hints(cls)
    prefix = f"{name}." if name else ""
    for key in tree:
        if key not in hints:
            raise InputError(f"unknown config key {prefix}{key}{_did_you_mean(prefix, key)}")
    values = {key: _coerce(hints[key], value, prefix + key) for key, value in tree.items()}
    return cls(**values)


def _did_you_mean(prefix: str, key: str) -> str:
    """The keys that could be meant by an unknown one: of like names, or in another section."""
    known = {}
    for section in dataclasses.fields(Config):
        known[section.name] = section.name
        if dataclasses.is_dataclass(section.type):
            for declared in dataclasses.fields(section.type):
                known[f"{section.name}.{declared.name}"] = declared.name
    elsewhere = [name for name, last in known.items() if last == key]
    meant = elsewhere or difflib.get_close_matches(prefix + key, known, 3, 0.75)
    if meant:
        return f"; did you mean {' or '.join(meant)}?"
    beside = [last for name, last in known.items() if name == prefix + last]
    return f"; known: {', '.join(beside)}" if beside else ""


def _coerce(hint: Any, value: Any, name: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return build_checked(hint, value, name)
    if get_origin(hint) is Literal:
        if (type(value), value) not in [(type(choice), choice) for choice in get_args(hint)]:
            choices = ", ".join(to_toml(c) if isinstance(c, bool) else c for c in get_args(hint))
            raise InputError(f"{name} must be one of {choices}, got {_shown(value)}")
        return value
    if get_origin(hint) is tuple:
        if not isinstance(value, list):
            raise InputError(f"{name} must be a list, got {_shown(value)}")
        return tuple(_coerce(get_args(hint)[0], v, name) for v in value)
    if get_origin(hint) in (Union, UnionType):
        raise TypeError(f"{name}: unions are not supported in a config")
    if hint is float and type(value) is int and abs(value) < 1 << 53:
        return float(value)
    if type(value) is not hint:
        raise InputError(f"{name} must be {hint.__name__}, got {_shown(value)}")
    if hint is str and ("\0" in value or any("\ud800" <= c < "\ue000" for c in value)):
        raise InputError(f"{name} must be text, got {_shown(value)}")
    return value


def _shown(value: Any) -> str:
    """A value for a message, on one line and not too long."""
    return repr(value)[:100]


def to_toml(value: Any) -> str:
    """Writes a value of a config as TOML."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return '"' + "".join(map(_toml_character, value)) + '"'
    if isinstance(value, tuple):
        return "[" + ", ".join(map(to_toml, value)) + "]"
    return repr(value)


def _toml_character(character: str) -> str:
    if character.isprintable() and character not in '"\\':
        return character
    code = ord(character)
    return f"\\u{code:04x}" if code < 1 << 16 else f"\\U{code:08x}"
