"""A text vocabulary as a tokenizer.json, with the codes of SIDs as tokens behind the text's.

For people who have `tokenizers` or transformers and nothing of ours. Every text has the ids that
our own vocabulary gives it; only where a text spells a code, such as "<a_12>", does it stand for
that code.
"""

import json
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import sentencepiece

from store_engine.errors import InputError, shown
from store_engine.text.text_vocabulary import TextVocabulary
from store_engine.text.vocabulary import Vocabulary

_SPACE = "\u2581"  # how SentencePiece writes a space
_MAX_LEVELS = 26
# what a conversion is tried on beside the caller's texts: spaces, controls, lookalikes, all planes
_PROBES = (
    *("", " ", "  a  b ", "\u2581x \u2581", "\t\r\n\v\f\x00\x7f\x85\u00a0\u2028", "<s></s><0x41>"),
    *("e\u0301 \u00e9 \ufb01 \uff21\u3000\uff71", "\U0001f469\u200d\U0001f680", "\u0e01"),
    *("a" * 99, "-=" * 40, "." * 65 + " " * 33, "\ufeff\ufffe\ufffd\U0010ffff\ue000"),
)  # fmt: skip


def code_tokens(codebook_sizes: Sequence[int]) -> list[str]:
    """Spells all codes in the order of their unified ids: <a_0>, <a_1>, ..., <b_0>, ..."""
    if len(codebook_sizes) > _MAX_LEVELS:
        raise ValueError(f"there must be at most {_MAX_LEVELS} levels, got {len(codebook_sizes)}")
    return [
        f"<{chr(ord('a') + level)}_{code}>"
        for level, size in enumerate(codebook_sizes)
        for code in range(size)
    ]


class FastTokenizer(NamedTuple):
    """The documents of Hugging Face's two files."""

    tokenizer: dict[str, Any]  # tokenizer.json
    config: dict[str, Any]  # tokenizer_config.json


def fast_tokenizer(vocabulary: Vocabulary, codes: Sequence[str]) -> FastTokenizer:
    """Makes the documents of a tokenizer.json and its tokenizer_config.json.

    With `add_special_tokens` (the default of tokenizers and transformers) a text begins with the
    bos token, as sequences of ours do. A control token that is spelled in a text is letters.

    Args:
        vocabulary: The text's.
        codes: Spellings of the tokens len(vocabulary), len(vocabulary) + 1, ...

    Raises:
        InputError: The vocabulary has a token that is spelled as a code, or is a SentencePiece
            model of another kind than byte pairs.
    """
    document: dict[str, Any]
    if isinstance(vocabulary, TextVocabulary):
        document = _from_sentencepiece(vocabulary)
    else:
        from store_engine.text.json_vocabulary import JsonVocabulary

        assert isinstance(vocabulary, JsonVocabulary)
        document = json.loads(vocabulary.to_json())
    tokens: dict[str, int] = document["model"]["vocab"]
    names = {token_id: token for token, token_id in tokens.items()}
    names |= {token["id"]: token["content"] for token in document["added_tokens"]}
    known = set(names.values())
    for token_id, code in enumerate(codes, len(vocabulary)):
        if code in known:
            raise InputError(f"the text vocabulary holds {shown(code)}, which is to be a code")
        tokens[code] = token_id  # an added token keeps its id if the model knows it
        document["added_tokens"].append(_added(token_id, code, is_special=False))
    special = {name: getattr(vocabulary, f"{name}_id") for name in ("bos", "eos", "pad")}
    document["post_processor"] = _begins_with(names[special["bos"]], special["bos"])
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
    config |= {f"{name}_token": names[token_id] for name, token_id in special.items()}
    if (unknown := document["model"].get("unk_token")) is not None:
        config["unk_token"] = unknown
    config |= {"padding_side": "left", "clean_up_tokenization_spaces": False}
    # transformers before 5 makes token_type_ids too, which no Llama takes, unless told otherwise
    config |= {"model_input_names": ["input_ids", "attention_mask"]}
    return FastTokenizer(document, config | {"split_special_tokens": True})


def check_fast_tokenizer(tokenizer: Any, vocabulary: Vocabulary, texts: Iterable[str]) -> None:
    """Compares a tokenizer with the vocabulary that it was made from.

    Args:
        tokenizer: A `tokenizers.Tokenizer` of its document.
        vocabulary: The text's.
        texts: Texts to encode, beside some that are hard.

    Raises:
        InputError: A text has other ids.
    """
    tokenizer.encode_special_tokens = True
    for text in (*_PROBES, *texts):
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        if ids != (own := vocabulary.encode(text)) and max(ids, default=0) < len(vocabulary):
            raise InputError(
                f"the text vocabulary cannot be written as a tokenizer.json: {shown(text)} is "
                f"{shown(own)}, and would be {shown(ids)}"
            )


def _from_sentencepiece(vocabulary: TextVocabulary) -> dict[str, Any]:
    model = sentencepiece.SentencePieceProcessor(model_proto=vocabulary.model)
    size = len(vocabulary)
    pieces = [model.id_to_piece(i) for i in range(size)]
    control = [i for i in range(size) if model.is_control(i) or model.is_unknown(i)]
    has_bytes = any(map(model.is_byte, range(size)))
    mergeable = [i for i in range(size) if i not in set(control) and not model.is_byte(i)]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added(i, pieces[i], is_special=True) for i in control],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": _SPACE},
                {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE},
            ],
        },
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": pieces[model.unk_id()],
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": has_bytes,
            "ignore_merges": False,
            "vocab": {piece: i for i, piece in enumerate(pieces)},
            "merges": _merges(pieces, mergeable, model.get_score),
        },
    }


def _merges(pieces: list[str], mergeable: list[int], score: Any) -> list[list[str]]:
    """Every pair of pieces that makes a third, those that SentencePiece merges first first."""
    known = {pieces[i]: i for i in mergeable}
    merges: list[list[str]] = []
    for i in sorted(mergeable, key=lambda i: (-score(i), i)):
        piece = pieces[i]
        pairs = [(piece[:at], piece[at:]) for at in range(1, len(piece))]
        merges += [[a, b] for a, b in pairs if a in known and b in known]
    return merges


def _added(token_id: int, content: str, is_special: bool) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": token_id, "content": content, **flags, "special": is_special}


def _begins_with(token: str, token_id: int) -> dict[str, Any]:
    bos = {"SpecialToken": {"id": token, "type_id": 0}}
    first, second = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    return {
        "type": "TemplateProcessing",
        "single": [bos, first],
        "pair": [bos, first, second],
        "special_tokens": {token: {"id": token, "ids": [token_id], "tokens": [token]}},
    }
