import pytest

from store_engine.text.json_vocabulary import _SPLITS
from store_engine.text.split_pattern import is_safe_regex

LETTERS = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
REAL = {  # as the models' tokenizer.json have them
    "gpt2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "llama3": _SPLITS["llama-bpe"],
    "qwen2": _SPLITS["qwen2"],
    "o200k": f"{LETTERS}{CONTRACTION}" + r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+",
    "deepseek": r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?"
    r"[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "cjk": r"[\x{4e00}-\x{9fa5}\u3040-\u309f\u30a0-\u30ff]+",
    "bloom": r" ?[^(\s|[.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c])]+",
    "space": " ",
    "digits": r"[0-9][0-9][0-9]",
    "escapes": r"\x{4e00}\u0041\x41\p{^L}\d\W\.\[\]",
    "optional group": r"(?:ab)?c",
    "lookbehind": r"(?<=\p{L})\p{N}+",
    "lazy": r"a+?b*+",
    "first bracket": r"[]a]+|[^]a]+|[a&&[^b]]",
}
WRONG = {
    "nested": r"(a+)+$",
    "repeated group": r"(ab)*c",
    "alternatives": r"(a|a)+$",
    "counted group": r"(a?){20}a{20}",
    "repeated count": r"a{1,3}+",
    "polynomial": r"\s*\s*\s*x",
    "polynomial in groups": r"(?:a*)?(?:b*)?(?:c*)?x",
    "polynomial by counts": r"a{0,99}a{0,99}a{0,99}x",
    "many optional": "a?" * 9 + "b",
    "huge count": r"a{1,100000}",
    "back reference": r"(a)\1",
    "named": r"(?<n>a)\k<n>",
    "recursion": r"(a\g<0>?b)",
    "absent": r"(?~ab)",
    "condition": r"(a)?(?(1)b|c)",
    "atomic": r"(?>a)",
    "flag": r"(?i)a",
    "comment": r"(?#)a",
    "open group": r"(a",
    "closed group": r"a)",
    "open set": r"[a",
    "nothing to repeat": r"+a",
    "group of nothing to repeat": r"(*a)",
    "alternative of nothing": r"a|*",
    "ends in an escape": "a\\",
    "empty": "",
    "long": "a" * 2001,
}


@pytest.mark.parametrize("pattern", REAL.values(), ids=REAL)
def test_the_expressions_of_real_tokenizers_are_allowed(pattern):
    assert is_safe_regex(pattern)


@pytest.mark.parametrize("pattern", WRONG.values(), ids=WRONG)
def test_what_could_take_for_ever_is_not(pattern):
    assert not is_safe_regex(pattern)
