"""Text <-> token ids: SentencePiece, trained on the catalogue's own text or a backbone's.

Ours has byte pair merges with byte fallback and no normalisation, so a text comes back exactly as
it went in, also with letters that the catalogue never used. (But U+2581, which SentencePiece writes
for a space, comes back as one.)
"""

import io
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import sentencepiece

from store_engine.errors import InputError
from store_engine.files.atomic import atomic_open
from store_engine.files.regular import read_regular
from store_engine.text.token_ids import check_ids

_MAX_MODEL_BYTES = 1 << 27  # the largest known ones have 4 MB
_SPACE = "\u2581"  # how SentencePiece writes a space
_NUM_FIXED_PIECES = 4 + 256  # control and byte pieces
_SMALLEST_SIZE = _NUM_FIXED_PIECES + 4
_LIBRARY_ERRORS = (RuntimeError, ValueError, TypeError, LookupError, OSError, MemoryError)


class TextVocabulary:
    """A SentencePiece model, kept as its bytes.

    Attributes:
        bos_id: Before a text; 1 in ours.
        eos_id: After a text; 2 in ours.
        pad_id: 0 in ours; `eos_id` where the model has none.
    """

    FILE = "text.model"  # in a run directory

    def __init__(self, model: bytes) -> None:
        """Takes a serialised SentencePiece model.

        Raises:
            InputError: `model` is not one, or lacks bos or eos.
        """
        self.model = model
        if not model:  # which SentencePiece 0.2 takes for no model yet, and crashes when asked
            raise InputError("not a SentencePiece model")
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
            self.bos_id: int = self._processor.bos_id()
            self.eos_id: int = self._processor.eos_id()
            pad_id: int = self._processor.pad_id()
            self.pad_id = pad_id if pad_id >= 0 else self.eos_id
            # a damaged model can load and fail at its first piece that is no text
            for piece_id in range(len(self)):
                self._processor.id_to_piece(piece_id)
            self._processor.decode(self._processor.encode("a \u2603"))
        except _LIBRARY_ERRORS as error:
            raise InputError("not a SentencePiece model") from error
        if not 0 <= min(self.bos_id, self.eos_id) < len(self):
            raise InputError("not a SentencePiece model with bos and eos tokens")

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> "TextVocabulary":
        """Learns a vocabulary; the same texts in the same order give the same bytes.

        Where the texts have more different letters than the vocabulary has room for, as Chinese,
        Japanese or Korean ones can, half of the room is for the commonest letters, and the others
        are written as their bytes.

        Args:
            texts: The catalogue's texts.
            vocab_size: Most pieces, among them 4 control and 256 byte pieces. Texts that hold
                fewer different pieces give a smaller vocabulary, with a warning.

        Raises:
            InputError: The texts are empty, or `vocab_size` leaves no room beside the bytes.
        """
        if vocab_size < _SMALLEST_SIZE:
            raise InputError(
                f"text_vocab_size must be at least {_SMALLEST_SIZE} (260 of them are bytes and "
                f"control tokens), got {vocab_size}"
            )
        texts = [text.replace("\0", " ") for text in texts]  # a text with NUL would be skipped
        try:
            model = _train(texts, vocab_size)
        except RuntimeError as error:
            if not re.search(r"smaller than required_chars", str(error)):
                raise InputError(_explain(str(error), vocab_size)) from error
            model = _train_common_letters(texts, vocab_size)
        vocabulary = cls(model)
        if len(vocabulary) < vocab_size:
            warnings.warn(
                f"the text gives {len(vocabulary)} pieces, fewer than text_vocab_size = "
                f"{vocab_size}: the vocabulary has {len(vocabulary)}",
                stacklevel=2,
            )
        return vocabulary

    def __len__(self) -> int:
        """Returns the number of ids."""
        size: int = self._processor.vocab_size()
        return size

    def encode(self, text: str) -> list[int]:
        """Returns the token ids of `text`, without bos and eos."""
        ids: list[int] = self._processor.encode(text)
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text of `ids`; control tokens vanish.

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
            InputError: The file is missing, no regular file, or no SentencePiece model.
        """
        model = read_regular(path, _MAX_MODEL_BYTES)
        try:
            return cls(model)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error


def _train(texts: Iterable[str], vocab_size: int) -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=model,
        vocab_size=vocab_size,
        model_type="bpe",
        byte_fallback=True,
        hard_vocab_limit=False,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        required_chars=_SPACE,  # without it, rare spaces would not come back
        max_sentence_length=1 << 24,  # bytes; longer texts would be skipped in silence
        num_threads=1,
        pad_id=0,
        bos_id=1,
        eos_id=2,
        unk_id=3,
        minloglevel=2,
    )
    return model.getvalue()


def _train_common_letters(texts: list[str], vocab_size: int) -> bytes:
    """Trains on the texts without their rarer letters, which then have no piece of their own.

    SentencePiece's own option for this, character_coverage, ends at 98 %.
    """
    counts = Counter(letter for text in texts for letter in text if letter != " ")
    num_common = (vocab_size - _NUM_FIXED_PIECES) // 2 - 1  # one is the space
    # of equally common letters the first in Unicode, so that the order of the texts has no part
    by_count = sorted(counts, key=lambda letter: (-counts[letter], letter))
    rare = re.compile("[" + "".join(map(re.escape, by_count[num_common:])) + "]+")

    def common() -> Iterator[str]:
        return (rare.sub(" ", text) for text in texts)

    try:
        return _train(common(), vocab_size)
    except RuntimeError as error:
        raise InputError(_explain(str(error), vocab_size)) from error


def _explain(message: str, vocab_size: int) -> str:
    """What SentencePiece's complaint means for the one who wrote the config."""
    if "sentences_.empty()" in message:
        return "a text vocabulary needs text, got none: every text field is empty"
    return f"SentencePiece could not learn a vocabulary of {vocab_size}: {message}"
