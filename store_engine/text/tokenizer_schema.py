"""What a tokenizer.json may hold, checked before the `tokenizers` library reads it.

The library trusts its files: some parameters make it abort the process (a normaliser's precompiled
table, token ids near 2^32), loop for ever or fill the memory (a split of length 0, replacements
that multiply, regular expressions that backtrack). So every component must be of a kind listed
here, with the parameters of that kind, within their ranges. The kinds are those of byte pair
tokenizers, as Llama and Qwen models have.
"""

from collections.abc import Callable, Mapping
from typing import Any

from store_engine.text.split_pattern import is_safe_regex

_MAX_TOKENS = 2_000_000
_MAX_ADDED_TOKENS = 100_000
_MAX_COMPONENTS = 32  # of one sequence
_MAX_GROWTH = 4096  # how many times longer a chain of replacements may make a text

Check = Callable[[Any], bool]  # of one parameter


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_flag_or_none(value: Any) -> bool:
    return value is None or isinstance(value, bool)


def _is_short(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= 16


def _is_filled(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _is_short_or_none(value: Any) -> bool:
    return value is None or _is_short(value)


def _is_few(value: Any) -> bool:
    return type(value) is int and 0 <= value <= 16


def _one_of(*names: str) -> Check:
    return lambda value: value in names and isinstance(value, str)


def _is_pattern(value: Any) -> bool:
    match value:
        case {"String": str(text), **others}:
            return 0 < len(text) <= 16 and not others
        case {"Regex": str(text), **others}:
            return is_safe_regex(text) and not others
    return False


_BEHAVIOR = _one_of("Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous")
_BYTE_LEVEL = {"add_prefix_space": _is_flag, "trim_offsets": _is_flag, "use_regex": _is_flag}
_METASPACE = {
    "replacement": _is_short,
    "str_rep": _is_short,
    "prepend_scheme": _one_of("first", "never", "always"),
    "add_prefix_space": _is_flag,
    "split": _is_flag,
}
_NORMALIZERS: Mapping[str, Mapping[str, Check]] = {
    **{kind: {} for kind in ("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "Nmt")},
    "Strip": {"strip_left": _is_flag, "strip_right": _is_flag},
    "Prepend": {"prepend": _is_short},
    "Replace": {"pattern": _is_pattern, "content": _is_short},
    "ByteLevel": {},
    "BertNormalizer": {
        "clean_text": _is_flag,
        "handle_chinese_chars": _is_flag,
        "strip_accents": _is_flag_or_none,
        "lowercase": _is_flag,
    },
}
_PRE_TOKENIZERS: Mapping[str, Mapping[str, Check]] = {
    **{kind: {} for kind in ("Whitespace", "WhitespaceSplit", "BertPreTokenizer")},
    "UnicodeScripts": {},
    "ByteLevel": _BYTE_LEVEL,
    "Metaspace": _METASPACE,
    "Digits": {"individual_digits": _is_flag},
    "Punctuation": {"behavior": _BEHAVIOR},
    "Split": {"pattern": _is_pattern, "behavior": _BEHAVIOR, "invert": _is_flag},
}
_DECODERS: Mapping[str, Mapping[str, Check]] = {
    "ByteFallback": {},
    "Fuse": {},
    "ByteLevel": _BYTE_LEVEL,
    "Metaspace": _METASPACE,
    "Replace": {"pattern": _is_pattern, "content": _is_short},
    "Strip": {"content": _is_short, "start": _is_few, "stop": _is_few},
    "BPEDecoder": {"suffix": _is_short},
}
_MODEL: Mapping[str, Check] = {
    "dropout": lambda value: value is None or value == 0,  # else a text has other ids each time
    "unk_token": lambda value: value is None or isinstance(value, str),
    "continuing_subword_prefix": lambda value: value in (None, ""),
    "end_of_word_suffix": _is_short_or_none,
    "fuse_unk": _is_flag,
    "byte_fallback": _is_flag,
    "ignore_merges": _is_flag,
}


def check_tokenizer(document: dict[str, Any]) -> None:
    """Refuses a tokenizer.json that holds more than the library can be trusted with.

    Post-processor, truncation and padding are not checked: they have no part in what we encode,
    and the loader takes them out.

    Raises:
        ValueError: A component is of an unknown kind, or a parameter is out of its range.
    """
    _check_model(document.get("model"))
    _check_added_tokens(document.get("added_tokens", []), document["model"])
    for name, inner, kinds in (
        ("normalizer", "normalizers", _NORMALIZERS),
        ("pre_tokenizer", "pretokenizers", _PRE_TOKENIZERS),
        ("decoder", "decoders", _DECODERS),
    ):
        component = document.get(name)
        if component is not None:
            components = _flatten(component, name, inner)
            for one in components:
                _check_component(one, name, kinds)
            _check_growth(components, name)


def _check_model(model: Any) -> None:
    if not isinstance(model, dict) or model.get("type", "BPE") != "BPE":
        kind = model.get("type") if isinstance(model, dict) else model
        raise ValueError(f"its model must be of type BPE, is {str(kind)[:50]!r}")
    vocab, merges = model.get("vocab"), model.get("merges")
    if not isinstance(vocab, dict) or not 0 < len(vocab) <= _MAX_TOKENS:
        raise ValueError(f"its vocabulary must be an object of 1 to {_MAX_TOKENS:,} tokens")
    if not all(map(_is_token_id, vocab.values())) or len(set(vocab.values())) < len(vocab):
        raise ValueError(f"token ids must be different numbers below {_MAX_TOKENS:,}")
    if not isinstance(merges, list) or not all(map(_is_merge, merges)):
        raise ValueError("its merges must be pairs of tokens")
    _check_parameters(
        {k: v for k, v in model.items() if k not in ("vocab", "merges")}, "model", _MODEL
    )
    if (unknown := model.get("unk_token")) is not None and unknown not in vocab:
        raise ValueError(f"its unk_token {unknown[:50]!r} is not in its vocabulary")


def _is_token_id(value: Any) -> bool:
    return type(value) is int and 0 <= value < _MAX_TOKENS


def _is_merge(pair: Any) -> bool:
    if isinstance(pair, str):
        return " " in pair
    return isinstance(pair, list) and len(pair) == 2 and all(isinstance(x, str) for x in pair)


def _check_added_tokens(tokens: Any, model: dict[str, Any]) -> None:
    if not isinstance(tokens, list) or len(tokens) > _MAX_ADDED_TOKENS:
        raise ValueError(f"added_tokens must be a list of at most {_MAX_ADDED_TOKENS:,}")
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), _is_flag)
    form = {"id": _is_token_id, "content": _is_filled, **flags}
    for token in tokens:
        if not isinstance(token, dict) or not {"id", "content"} <= token.keys():
            raise ValueError("an added token must be an object with id and content")
        _check_parameters(token, "added token", form)


def _flatten(component: Any, name: str, inner: str, depth: int = 0) -> list[dict[str, Any]]:
    """A component, or all those of a sequence, in their order."""
    if not isinstance(component, dict) or not isinstance(component.get("type"), str):
        raise ValueError(f"a {name} must be an object with a type")
    if component["type"] != "Sequence":
        return [component]
    parts = component.get(inner)
    if not isinstance(parts, list) or component.keys() != {"type", inner} or depth == 4:
        raise ValueError(f"a sequence of {name}s must hold a list '{inner}'")
    flat = [one for part in parts for one in _flatten(part, name, inner, depth + 1)]
    if len(flat) > _MAX_COMPONENTS:
        raise ValueError(f"a sequence of {name}s may hold {_MAX_COMPONENTS} of them")
    return flat


def _check_component(
    component: dict[str, Any], name: str, kinds: Mapping[str, Mapping[str, Check]]
) -> None:
    kind = component["type"]
    if kind not in kinds:
        raise ValueError(f"its {name} {kind[:50]!r} is not supported, only {', '.join(kinds)}")
    _check_parameters(component, f"{name} {kind}", kinds[kind])


def _check_parameters(values: dict[str, Any], where: str, form: Mapping[str, Check]) -> None:
    for key, value in values.items():
        if key != "type" and (key not in form or not form[key](value)):
            raise ValueError(f"its {where}: {key[:50]} = {str(value)[:50]!r} is not supported")


def _check_growth(components: list[dict[str, Any]], name: str) -> None:
    growth = 1
    for one in components:
        growth *= max(1, len(one.get("content", ""))) if one["type"] == "Replace" else 1
    if growth > _MAX_GROWTH:
        raise ValueError(f"its {name}s could make a text {growth:,} times longer")
