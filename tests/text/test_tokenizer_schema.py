import copy
import json

import pytest

from store_engine.errors import InputError
from store_engine.text.json_vocabulary import JsonVocabulary
from store_engine.text.tokenizer_schema import check_tokenizer

tokenizers = pytest.importorskip("tokenizers")

FLAGS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
PLAIN = {
    "version": "1.0",
    "added_tokens": [{"id": 3, "content": "<|end|>", "special": True, **FLAGS}],
    "normalizer": None,
    "pre_tokenizer": None,
    "post_processor": None,
    "decoder": None,
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "<|end|>": 3}, "merges": ["a b"]},
}


def changed(path, value):
    """The plain tokenizer with one value changed, by a path such as "model.vocab"."""
    document = copy.deepcopy(PLAIN)
    *parents, last = path.split(".")
    node = document
    for name in parents:
        node = node[name]
    node[last] = value
    return document


def sequence(name, *parts):
    return {"type": "Sequence", name: list(parts)}


REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
RIGHT = {
    "plain": ("version", "1.0"),
    "merges as pairs": ("model.merges", [["a", "b"]]),
    "ids with gaps": ("model.vocab", {"a": 0, "b": 1, "ab": 7, "<|end|>": 3}),
    "llama": ("normalizer", sequence("normalizers", {"type": "Prepend", "prepend": "▁"}, REPLACE)),
    "nested": ("normalizer", sequence("normalizers", sequence("normalizers", {"type": "NFC"}))),
    "no dropout": ("model.dropout", 0.0),
    "split": (
        "pre_tokenizer",
        {
            "type": "Split",
            "pattern": {"Regex": r"\s+(?!\S)"},
            "behavior": "Isolated",
            "invert": False,
        },
    ),
    "metaspace": (
        "pre_tokenizer",
        {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False},
    ),
}
SPLIT = {"type": "Split", "behavior": "Isolated", "invert": False}
WRONG = {
    "charsmap": ("normalizer", {"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
    "charsmap in a sequence": (
        "normalizer",
        sequence("normalizers", {"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
    ),
    "charsmap in another kind": (
        "normalizer",
        {"type": "NFC", "precompiled_charsmap": "AAAA"},
    ),
    "no type": ("normalizer", {"precompiled_charsmap": "AAAA"}),
    "fixed length": ("pre_tokenizer", {"type": "FixedLength", "length": 0}),
    "regex": ("pre_tokenizer", SPLIT | {"pattern": {"Regex": "(a+)+$"}}),
    "empty pattern": ("normalizer", REPLACE | {"pattern": {"String": ""}}),
    "two patterns": ("normalizer", REPLACE | {"pattern": {"String": "a", "Regex": "a"}}),
    "long replacement": ("normalizer", REPLACE | {"content": "x" * 17}),
    "growth": ("normalizer", sequence("normalizers", *[REPLACE | {"content": "xxxxxxxx"}] * 5)),
    "many": ("normalizer", sequence("normalizers", *[{"type": "NFC"}] * 33)),
    "deep": (
        "normalizer",
        sequence("normalizers", sequence("normalizers", sequence("normalizers", sequence(
            "normalizers", sequence("normalizers", {"type": "NFC"}))))),
    ),
    "behaviour": ("pre_tokenizer", SPLIT | {"pattern": {"String": "a"}, "behavior": "No"}),
    "strip": ("decoder", {"type": "Strip", "content": " ", "start": 2**63, "stop": 0}),
    "id": ("model.vocab", {"a": 0, "b": 2**32 - 1, "ab": 2, "<|end|>": 3}),
    "id twice": ("model.vocab", {"a": 0, "b": 0, "ab": 2, "<|end|>": 3}),
    "id of another type": ("model.vocab", {"a": 0, "b": [1], "ab": 2, "<|end|>": 3}),
    "no vocabulary": ("model.vocab", {}),
    "merge": ("model.merges", ["ab"]),
    "merge of three": ("model.merges", [["a", "b", "c"]]),
    "unigram": ("model", {"type": "Unigram", "vocab": [["a", 0.0]]}),
    "unk": ("model.unk_token", "zz"),
    "prefix": ("model.continuing_subword_prefix", "##"),
    "dropout": ("model.dropout", 0.5),
    "added id": ("added_tokens", [{"id": 2**31, "content": "x"}]),
    "added nothing": ("added_tokens", [{"id": 3, "content": ""}]),
    "added without id": ("added_tokens", [{"content": "x"}]),
    "no model": ("model", None),
}  # fmt: skip


@pytest.mark.parametrize(("path", "value"), RIGHT.values(), ids=RIGHT)
def test_allows(path, value):
    document = changed(path, value)
    check_tokenizer(document)
    tokenizers.Tokenizer.from_str(json.dumps(document))


@pytest.mark.parametrize(("path", "value"), WRONG.values(), ids=WRONG)
def test_refuses(path, value):
    with pytest.raises(ValueError, match=r"."):
        check_tokenizer(changed(path, value))


def write(folder, document, **config):
    (folder / "tokenizer.json").write_text(json.dumps(document))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|end|>"} | config))
    return folder


@pytest.mark.parametrize(("path", "value"), WRONG.values(), ids=WRONG)
def test_a_hostile_file_is_one_line(path, value, tmp_path):
    with pytest.raises(InputError, match=r"tokenizer\.json: not a readable tokenizer: "):
        JsonVocabulary.load(write(tmp_path, changed(path, value)))


def test_a_panic_of_the_library_is_one_line(tmp_path):
    vocabulary = JsonVocabulary.load(write(tmp_path, PLAIN))

    class PanicException(BaseException):  # as the library's own, which cannot be imported
        pass

    class Panics:
        def encode(self, *_, **__):
            raise PanicException("slice index starts at 3 but ends at 1")

        def decode(self, *_, **__):
            raise KeyboardInterrupt

    vocabulary._tokenizer = Panics()
    with pytest.raises(InputError, match="its tokenizer cannot encode a text: slice index"):
        vocabulary.encode("a")
    with pytest.raises(KeyboardInterrupt):  # which is not the library's
        vocabulary.decode([0])


def test_a_post_processor_padding_and_truncation_play_no_part(tmp_path):
    document = PLAIN | {
        "truncation": {"max_length": 0},
        "padding": {"strategy": {"Fixed": 10**12}},
    }
    assert JsonVocabulary.load(write(tmp_path, document)).encode("ab" * 3) == [2, 2, 2]


def test_what_is_checked_is_what_is_read(tmp_path):
    """A key that stands twice: Python takes the last one."""
    write(tmp_path, PLAIN)
    path = tmp_path / "tokenizer.json"
    text = path.read_text()
    hostile = '"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}, '
    path.write_text(text.replace("{", "{" + hostile, 1))
    assert JsonVocabulary.load(tmp_path).encode("ab") == [2]


@pytest.mark.parametrize("eos", [-1, 4, 2**40, True, 1.0])
def test_special_ids_are_the_tokenizers(eos, tmp_path):
    write(tmp_path, PLAIN, eos_token=None)
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": eos}))
    with pytest.raises(InputError, match=r"eos token"):
        JsonVocabulary.load(tmp_path)
