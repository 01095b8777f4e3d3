"""Text <-> token ids by a `tokenizers` tokenizer: a checkpoint's tokenizer.json, or one in a GGUF.

In a run directory it is kept in Hugging Face's own two files: tokenizer.json, and
tokenizer_config.json with the names of the special tokens.
"""

import contextlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE

from store_engine.errors import InputError
from store_engine.files.atomic import atomic_open
from store_engine.files.json_file import read_json
from store_engine.text.gguf_file import GGUFFile
from store_engine.text.token_ids import check_ids
from store_engine.text.tokenizer_schema import check_tokenizer

TOKENIZER_FILE, _CONFIG_FILE = "tokenizer.json", "tokenizer_config.json"
_MAX_BYTES = 1 << 27  # of tokenizer.json; the largest known ones have 33 MB
_CONTROL, _USER_DEFINED = 3, 4  # llama.cpp's types of token
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SPLITS = {  # how a text is cut into words before byte pairs are merged, by llama.cpp's name
    "llama-bpe": _CONTRACTIONS + r"\p{N}{1,3}" + _REST,
    "qwen2": _CONTRACTIONS + r"\p{N}" + _REST,
}


class SpecialIds(NamedTuple):
    """Ids of the tokens that sequences begin, end and are padded with."""

    bos: int
    eos: int
    pad: int  # for others: nothing of ours pads


class JsonVocabulary:
    """A `tokenizers` tokenizer with the ids that sequences begin and end with.

    Control tokens that stand in a text ("<|endoftext|>") are read as letters, never as control.

    Args:
        tokenizer: Taken over; its truncation and padding are switched off.
        special: Its special tokens.
        path: Where it was read from, for errors.

    Raises:
        InputError: A special id is not one of the tokenizer's.
    """

    def __init__(self, tokenizer: Tokenizer, special: SpecialIds, path: Path) -> None:
        self._tokenizer, self._special, self._path = tokenizer, special, path
        with self._library_errors("be used"):
            tokenizer.no_truncation()
            tokenizer.no_padding()
            tokenizer.encode_special_tokens = True
            self._size = 1 + max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
        for name, token_id in (("eos", special.eos), ("bos", special.bos)):
            if not self._is_id(token_id):
                raise InputError(
                    f"{path}: the id of its {name} token must be in [0, {self._size}), "
                    f"got {token_id!r}"
                )
        if not self._is_id(special.pad):  # some models state -1
            self._special = special._replace(pad=special.eos)
        self.bos_id, self.eos_id, self.pad_id = self._special
        self.decode(self.encode("a \u2603"))  # what cannot work is found now

    @classmethod
    def load(cls, directory: str | Path) -> "JsonVocabulary":
        """Reads tokenizer.json, and which tokens are special.

        They are those that tokenizer_config.json names, else those of config.json. Models without
        a bos token (Qwen) begin a text with their eos token, and pad with it.

        Raises:
            InputError: A file is missing, damaged or holds more than we trust the library with
                (see tokenizer_schema.py), or no token ends a text.
        """
        directory = Path(directory)
        path = directory / TOKENIZER_FILE
        tokenizer = _read_tokenizer(path)
        named, numbered = (
            read_json(directory / name) if (directory / name).exists() else {}
            for name in (_CONFIG_FILE, "config.json")
        )

        def special(name: str) -> int | None:
            token = named.get(f"{name}_token")
            token = token.get("content") if isinstance(token, dict) else token
            if isinstance(token, str) and (token_id := tokenizer.token_to_id(token)) is not None:
                return int(token_id)
            token_id = numbered.get(f"{name}_token_id")
            token_id = token_id[0] if isinstance(token_id, list) and token_id else token_id
            return token_id if type(token_id) is int else None

        eos = special("eos")
        if eos is None:
            raise InputError(
                f"{directory}: neither {_CONFIG_FILE} nor config.json names an eos token of "
                f"{TOKENIZER_FILE}"
            )
        bos, pad = special("bos"), special("pad")
        ids = SpecialIds(eos if bos is None else bos, eos, eos if pad is None else pad)
        return cls(tokenizer, ids, path)

    @classmethod
    def from_gguf(cls, path: str | Path) -> "JsonVocabulary":
        """Rebuilds the byte-level BPE tokenizer that a GGUF file describes.

        Raises:
            InputError: The file cannot be read, or its tokenizer is of another kind or damaged.
        """
        path = Path(path)
        file = GGUFFile(path)
        kind, pre = file.get("tokenizer.ggml.model"), file.get("tokenizer.ggml.pre", "default")
        if kind != "gpt2" or pre not in ("smollm", "gpt-2", *_SPLITS):
            known = ", ".join(("smollm", "gpt-2", *_SPLITS))
            raise InputError(
                f"{path}: its tokenizer is {kind!r} with pre-tokenizer {pre!r}; only 'gpt2' with "
                f"{known} is known: take the model's Hugging Face folder instead"
            )
        with _library_errors(path, "be rebuilt"):
            tokenizer = _rebuild(file, pre)
        eos = file.get("tokenizer.ggml.eos_token_id")
        bos, pad = (file.get(f"tokenizer.ggml.{n}_token_id", eos) for n in ("bos", "padding"))
        return cls(tokenizer, SpecialIds(bos, eos, pad), path)

    def __len__(self) -> int:
        """Returns the number of ids."""
        return self._size

    def encode(self, text: str) -> list[int]:
        """Returns the token ids of `text`, without bos and eos.

        Raises:
            InputError: The tokenizer cannot encode the text.
        """
        with self._library_errors("encode a text"):
            ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text of `ids`; control tokens vanish.

        Raises:
            ValueError: An id is not in the vocabulary.
        """
        ids = check_ids(ids, len(self))
        with self._library_errors("decode"):
            text: str = self._tokenizer.decode(ids, skip_special_tokens=True)
        return text

    def to_json(self) -> str:
        """Returns the tokenizer as a tokenizer.json."""
        return self._tokenizer.to_str()

    def save(self, directory: str | Path) -> None:
        """Writes tokenizer.json and tokenizer_config.json into a folder."""
        special = self._special._asdict()
        config = {f"{n}_token": self._tokenizer.id_to_token(i) for n, i in special.items()}
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
        with atomic_open(Path(directory) / _CONFIG_FILE) as file:
            file.write(json.dumps(config, indent=1).encode() + b"\n")
        with atomic_open(Path(directory) / TOKENIZER_FILE) as file:
            file.write(self.to_json().encode())

    def _is_id(self, token_id: object) -> bool:
        return type(token_id) is int and 0 <= token_id < self._size

    def _library_errors(self, what: str) -> contextlib.AbstractContextManager[None]:
        return _library_errors(self._path, what)


def _read_tokenizer(path: Path) -> Tokenizer:
    """Reads tokenizer.json without the parts that have no part in what we encode."""
    document = read_json(path, _MAX_BYTES)
    try:
        check_tokenizer(document)
    except ValueError as error:
        raise InputError(f"{path}: not a readable tokenizer: {error}") from error
    # written anew: what the library reads is what was checked, also where a key stood twice
    checked = json.dumps(document | {"truncation": None, "padding": None})
    with _library_errors(path, "be read"):
        return Tokenizer.from_str(checked)


def _rebuild(file: GGUFFile, pre: str) -> Tokenizer:
    tokens, merges = (_texts(file, name) for name in ("tokens", "merges"))
    types: list[Any] = file.get("tokenizer.ggml.token_type", [1] * len(tokens))
    if not isinstance(types, list) or len(types) != len(tokens) or len(set(tokens)) < len(tokens):
        raise ValueError("its tokens must differ, each with one type")
    tokenizer = Tokenizer(
        BPE(
            vocab={token: i for i, token in enumerate(tokens)},
            merges=[_pair(merge) for merge in merges],
            ignore_merges=pre == "llama-bpe",
        )
    )
    tokenizer.decoder = decoders.ByteLevel()
    bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pre not in _SPLITS)
    if pre in _SPLITS:
        words = pre_tokenizers.Split(Regex(_SPLITS[pre]), "isolated")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, bytes_only])
    elif pre == "smollm":
        digits = pre_tokenizers.Digits(individual_digits=True)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, bytes_only])
    else:
        tokenizer.pre_tokenizer = bytes_only
    if pre == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.add_tokens(
        [
            AddedToken(token, normalized=False, special=token_type == _CONTROL)
            for token, token_type in zip(tokens, types, strict=True)
            if token_type in (_CONTROL, _USER_DEFINED)
        ]
    )
    return tokenizer


def _texts(file: GGUFFile, name: str) -> list[str]:
    texts = file.get(f"tokenizer.ggml.{name}")
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"tokenizer.ggml.{name} must be a list of texts")
    return texts


def _pair(merge: str) -> tuple[str, str]:
    first, space, second = merge.partition(" ")
    if not space:
        raise ValueError(f"a merge must be two tokens, got {merge[:50]!r}")
    return first, second


@contextlib.contextmanager
def _library_errors(path: Path, what: str) -> Iterator[None]:
    """Turns what `tokenizers` raises, a panic of its Rust code included, into an InputError."""
    try:
        yield
    except InputError:
        raise
    except BaseException as error:
        # a panic derives from BaseException alone, and its class cannot be imported
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"{path}: its tokenizer cannot {what}: {reason}") from error
