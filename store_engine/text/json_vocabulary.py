"""Text <-> token ids by a `tokenizers` tokenizer: a checkpoint's tokenizer.json, or one in a GGUF.

In a run directory it is kept in Hugging Face's own two files: tokenizer.json, and
tokenizer_config.json with the names of the special tokens.
"""

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE

from store_engine.errors import InputError
from store_engine.files.atomic import atomic_open
from store_engine.files.json_file import read_json
from store_engine.text.gguf_file import GGUFFile
from store_engine.text.text_vocabulary import check_ids

TOKENIZER_FILE, _CONFIG_FILE = "tokenizer.json", "tokenizer_config.json"
_CONTROL, _USER_DEFINED = 3, 4  # llama.cpp's types of token
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SPLITS = {  # how a text is cut into words before byte pairs are merged, by llama.cpp's name
    "llama-bpe": _CONTRACTIONS + r"\p{N}{1,3}" + _REST,
    "qwen2": _CONTRACTIONS + r"\p{N}" + _REST,
}


class JsonVocabulary:
    """A `tokenizers` tokenizer with the ids that sequences begin and end with.

    Control tokens that stand in a text ("<|endoftext|>") are read as letters, never as control.

    Args:
        tokenizer: Taken over; its truncation and padding are switched off.
        bos_id: Before a text.
        eos_id: After a text.
        pad_id: For whoever pads.
    """

    def __init__(self, tokenizer: Tokenizer, bos_id: int, eos_id: int, pad_id: int) -> None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = True
        self._tokenizer = tokenizer
        self.bos_id, self.eos_id, self.pad_id = bos_id, eos_id, pad_id

    @classmethod
    def load(cls, directory: str | Path) -> "JsonVocabulary":
        """Reads tokenizer.json, and which tokens are special.

        They are those that tokenizer_config.json names, else those of config.json. Models without
        a bos token (Qwen) begin a text with their eos token, and pad with it.

        Raises:
            InputError: A file is missing or damaged, or no token ends a text.
        """
        directory = Path(directory)
        path = directory / TOKENIZER_FILE
        try:
            tokenizer = Tokenizer.from_str(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(f"{path}: {error.strerror}") from error
        except Exception as error:  # tokenizers raises nothing more specific
            raise InputError(f"{path}: not a readable tokenizer: {error}") from error

        named, numbered = (
            read_json(directory / name) if (directory / name).exists() else {}
            for name in (_CONFIG_FILE, "config.json")
        )

        def special(name: str) -> int | None:
            token = named.get(f"{name}_token")
            token = token.get("content") if isinstance(token, dict) else token
            if isinstance(token, str) and (token_id := tokenizer.token_to_id(token)) is not None:
                return token_id
            token_id = numbered.get(f"{name}_token_id")
            token_id = token_id[0] if isinstance(token_id, list) and token_id else token_id
            return token_id if type(token_id) is int else None

        eos = special("eos")
        if eos is None or tokenizer.id_to_token(eos) is None:
            raise InputError(
                f"{directory}: neither {_CONFIG_FILE} nor config.json names an eos token of "
                f"{TOKENIZER_FILE}"
            )
        bos, pad = special("bos"), special("pad")
        return cls(tokenizer, eos if bos is None else bos, eos, eos if pad is None else pad)

    @classmethod
    def from_gguf(cls, path: str | Path) -> "JsonVocabulary":
        """Rebuilds the byte-level BPE tokenizer that a GGUF file describes.

        Raises:
            InputError: The file cannot be read, or its tokenizer is of another kind.
        """
        file = GGUFFile(Path(path))
        kind, pre = file.get("tokenizer.ggml.model"), file.get("tokenizer.ggml.pre", "default")
        if kind != "gpt2" or pre not in ("smollm", "gpt-2", *_SPLITS):
            known = ", ".join(("smollm", "gpt-2", *_SPLITS))
            raise InputError(
                f"{path}: its tokenizer is {kind!r} with pre-tokenizer {pre!r}; only 'gpt2' with "
                f"{known} is known: take the model's Hugging Face folder instead"
            )
        tokens: list[str] = file.get("tokenizer.ggml.tokens")
        merges = [tuple(pair.split(" ", 1)) for pair in file.get("tokenizer.ggml.merges")]
        tokenizer = Tokenizer(
            BPE(
                vocab={token: i for i, token in enumerate(tokens)},
                merges=merges,
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
        types = file.get("tokenizer.ggml.token_type", [1] * len(tokens))
        tokenizer.add_tokens(
            [
                AddedToken(token, normalized=False, special=token_type == _CONTROL)
                for token, token_type in zip(tokens, types, strict=True)
                if token_type in (_CONTROL, _USER_DEFINED)
            ]
        )
        eos = file.get("tokenizer.ggml.eos_token_id")
        bos, pad = (file.get(f"tokenizer.ggml.{n}_token_id", eos) for n in ("bos", "padding"))
        return cls(tokenizer, bos, eos, pad)

    def __len__(self) -> int:
        """Number of ids."""
        return 1 + max(self._tokenizer.get_vocab(with_added_tokens=True).values())

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, without bos and eos."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; control tokens vanish.

        Raises:
            ValueError: An id is not in the vocabulary.
        """
        ids = check_ids(ids, len(self))
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True)
        return text

    def save(self, directory: str | Path) -> None:
        """Writes tokenizer.json and tokenizer_config.json into a folder."""
        special = {"bos": self.bos_id, "eos": self.eos_id, "pad": self.pad_id}
        config = {f"{n}_token": self._tokenizer.id_to_token(i) for n, i in special.items()}
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
        with atomic_open(Path(directory) / _CONFIG_FILE) as file:
            file.write(json.dumps(config, indent=1).encode() + b"\n")
        with atomic_open(Path(directory) / TOKENIZER_FILE) as file:
            file.write(self._tokenizer.to_str().encode())
