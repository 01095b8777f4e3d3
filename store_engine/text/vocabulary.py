"""Which text vocabulary a run has: one learned from its catalogue, or its backbone's."""

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from store_engine.errors import InputError
from store_engine.extras import needs
from store_engine.text.text_vocabulary import TextVocabulary

EXPORTED_RUN = "store_engine"  # folder of an exported run with what only this engine needs


class Vocabulary(Protocol):
    """Text <-> token ids."""

    bos_id: int  # before a text
    eos_id: int  # after a text
    pad_id: int  # for others, who pad: nothing of ours does

    def __len__(self) -> int:
        """Returns the number of ids."""

    def encode(self, text: str) -> list[int]:
        """Returns the token ids of `text`, without bos and eos."""

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text of `ids`; control tokens vanish."""

    def save(self, directory: str | Path) -> None:
        """Writes its files into a run directory."""


def load_vocabulary(run_dir: str | Path) -> Vocabulary:
    """Reads the vocabulary of a run.

    Raises:
        InputError: Its files are missing or damaged.
    """
    run_dir = Path(run_dir)
    if (run_dir / "tokenizer.json").exists():
        return _json_vocabulary(run_dir)
    return TextVocabulary.load(run_dir / TextVocabulary.FILE)


def backbone_vocabulary(path: str | Path) -> Vocabulary:
    """Reads a backbone's tokenizer: tokenizer.json, else tokenizer.model, or the one in a GGUF.

    A run that was exported has its codes in tokenizer.json too; only the text's tokens are read.

    Raises:
        InputError: There is none, it is damaged, or of a kind that is not known.
    """
    path = Path(path)
    if path.is_dir() and (path / EXPORTED_RUN).is_dir():
        return load_vocabulary(path / EXPORTED_RUN)
    if path.suffix == ".gguf" or (path / "tokenizer.json").exists():
        return _json_vocabulary(path)
    if (path / "tokenizer.model").exists():
        return TextVocabulary.load(path / "tokenizer.model")
    raise InputError(f"{path}: holds neither tokenizer.json nor tokenizer.model")


def _json_vocabulary(path: Path) -> Vocabulary:
    with needs(f"{path}: its tokenizer"):
        from store_engine.text.json_vocabulary import JsonVocabulary
    is_gguf = path.suffix == ".gguf"
    return JsonVocabulary.from_gguf(path) if is_gguf else JsonVocabulary.load(path)
