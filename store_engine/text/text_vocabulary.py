"""Text <-> token ids: SentencePiece, trained on the catalogue's own text or a backbone's.

Ours has byte pair merges with byte fallback and no normalisation, so a text comes back exactly as
it went in, also with letters that the catalogue never used. (But U+2581, which SentencePiece writes
for a space, comes back as one.)
"""

import io
import re
import warnings
from collections.abc import Iterable
from pathlib import Path

import sentencepiece

from store_engine.errors import InputError
from store_engine.files.atomic import atomic_open


class TextVocabulary:
    """A SentencePiece model, kept as its bytes.

    Attributes:
        pad_id: 0 in ours; the eos id in models without one (Llama 2).
        bos_id: Before a text; 1 in ours.
        eos_id: After a text; 2 in ours.
    """

    FILE = "text.model"  # in a run directory

    def __init__(self, model: bytes) -> None:
        """Takes a serialised SentencePiece model.

        Raises:
            InputError: `model` is not one, or lacks bos or eos.
        """
        self.model = model
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
            self.pad_id: int = self._processor.pad_id()
            self.bos_id: int = self._processor.bos_id()
            self.eos_id: int = self._processor.eos_id()
        except RuntimeError as error:
            raise InputError("not a SentencePiece model") from error
        if not model or min(self.bos_id, self.eos_id) < 0:
            raise InputError("not a SentencePiece model with bos and eos tokens")
        if self.pad_id < 0:
            self.pad_id = self.eos_id

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> "TextVocabulary":
        """Learns a vocabulary; the same texts in the same order give the same bytes.

        Args:
            texts: The catalogue's texts.
            vocab_size: Most pieces, among them 4 control and 256 byte pieces. Texts that hold
                fewer different pieces give a smaller vocabulary, with a warning.

        Raises:
            InputError: The texts are empty, or `vocab_size` has no room for their letters.
        """
        model = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(texts),
                model_writer=model,
                vocab_size=vocab_size,
                model_type="bpe",
                byte_fallback=True,
                hard_vocab_limit=False,
                normalization_rule_name="identity",
                remove_extra_whitespaces=False,
                required_chars="\u2581",  # the space; without it, rare spaces would not come back
                max_sentence_length=1 << 24,  # bytes; longer texts would be skipped in silence
                num_threads=1,
                pad_id=0,
                bos_id=1,
                eos_id=2,
                unk_id=3,
                minloglevel=2,
            )
        except RuntimeError as error:
            raise InputError(_explain(str(error), vocab_size)) from error
        vocabulary = cls(model.getvalue())
        if len(vocabulary) < vocab_size:
            warnings.warn(
                f"the text gives {len(vocabulary)} pieces, fewer than text_vocab_size = "
                f"{vocab_size}: the vocabulary has {len(vocabulary)}",
                stacklevel=2,
            )
        return vocabulary

    def __len__(self) -> int:
        """Number of ids."""
        size: int = self._processor.vocab_size()
        return size

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, without bos and eos."""
        ids: list[int] = self._processor.encode(text)
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; control tokens vanish.

        Raises:
            ValueError: An id is not in the vocabulary.
        """
        text: str = self._processor.decode(check_ids(ids, len(self)))
        return text

    def save(self, directory: str | Path) -> None:
        """Writes text.model into a folder; it either stands complete or not at all."""
        with atomic_open(Path(directory) / self.FILE) as file:
            file.write(self.model)

    @classmethod
    def load(cls, path: str | Path) -> "TextVocabulary":
        """Reads a SentencePiece model.

        Raises:
            InputError: The file is missing or no SentencePiece model.
        """
        try:
            return cls(Path(path).read_bytes())
        except OSError as error:
            raise InputError(f"{path}: {error.strerror}") from error
        except InputError as error:
            raise InputError(f"{path}: {error}") from error


def check_ids(ids: Iterable[int], vocab_size: int) -> list[int]:
    """Token ids as a list.

    Raises:
        ValueError: An id is not in the vocabulary.
    """
    checked = [int(i) for i in ids]
    if checked and not 0 <= min(checked) <= max(checked) < vocab_size:
        raise ValueError(f"ids must be in [0, {vocab_size}), got {min(checked)} to {max(checked)}")
    return checked


def _explain(message: str, vocab_size: int) -> str:
    """What SentencePiece's complaint means for the one who wrote the config."""
    if needed := re.search(r"smaller than required_chars\. \d+ vs (\d+)", message):
        return f"text_vocab_size must be at least {needed[1]} for this text, got {vocab_size}"
    if "sentences_.empty()" in message:
        return "a text vocabulary needs text, got none: every text field is empty"
    return f"SentencePiece could not learn a vocabulary of {vocab_size}: {message}"
