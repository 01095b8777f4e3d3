"""A pretrained decoder as the start of ours: its sizes, and its weights one tensor at a time."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from store_engine.config import ModelConfig
from store_engine.errors import InputError
from store_engine.model.backbones.gguf_backbone import GGUFBackbone
from store_engine.model.backbones.hf_folder import HFFolder
from store_engine.model.backbones.hf_layout import Shape, transformer_layout
from store_engine.text.vocabulary import Vocabulary, backbone_vocabulary

_EMBEDDING, _HEAD = "model.embed_tokens.weight", "lm_head.weight"


class Backbone:
    """A Llama, Qwen2 or Qwen3 on disk, checked in full before any weight is read.

    Args:
        path: A Hugging Face folder with safetensors, or a .gguf file.

    Attributes:
        sizes: The values of `ModelConfig` that it decides.
        vocab_size: Rows of its embedding; some models have more than their tokenizer has tokens.

    Raises:
        InputError: A file is missing or damaged, a tensor is missing, has another shape than the
            config says, or is one that our transformer does not have.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._checkpoint = _open(self.path)
        self.sizes: dict[str, Any] = self._checkpoint.sizes
        try:
            self._config = ModelConfig(**self.sizes)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        self.vocab_size = self._check_shapes()

    def weights(self, text_vocab_size: int) -> Iterator[tuple[str, Tensor]]:
        """Returns the weights under the names of `StoreModel`, each read when its turn comes.

        Args:
            text_vocab_size: Rows of embedding and head that are wanted, at most `vocab_size`.

        Raises:
            ValueError: The backbone has fewer rows.
            InputError: A tensor holds what no weight can be: another type, NaN or infinity.
        """
        if text_vocab_size > self.vocab_size:
            raise ValueError(
                f"text_vocab_size must be at most {self.vocab_size}, got {text_vocab_size}"
            )
        read = self._checkpoint.read
        yield "text_embedding.weight", read(_EMBEDDING)[:text_vocab_size]
        if not self._config.tie_text_head:
            yield "text_head.weight", read(_HEAD)[:text_vocab_size]
        for name, parts in transformer_layout(self._config):
            yield name, torch.cat([read(part) for part in parts])

    def code_weights(self, text_vocab_size: int) -> Iterator[tuple[str, Tensor]]:
        """Returns the rows behind the text's, which are the codes of a run that was exported.

        Args:
            text_vocab_size: Number of text tokens.

        Raises:
            InputError: As `weights`, or embedding and head are one.
        """
        if self._config.tie_text_head:
            raise InputError(f"{self.path}: codes need a head of their own, it is tied")
        yield "code_embedding.weight", self._checkpoint.read(_EMBEDDING)[text_vocab_size:]
        yield "code_head.weight", self._checkpoint.read(_HEAD)[text_vocab_size:]

    def vocabulary(self) -> Vocabulary:
        """Its tokenizer; of a run that was exported, the text's without the codes.

        Raises:
            InputError: There is none, or it has more tokens than the model has embeddings.
        """
        vocabulary = backbone_vocabulary(self.path)
        if len(vocabulary) > self.vocab_size:
            raise InputError(
                f"{self.path}: its tokenizer has {len(vocabulary)} tokens, the model embeds only "
                f"{self.vocab_size}"
            )
        return vocabulary

    def _check_shapes(self) -> int:
        shapes = self._checkpoint.shapes
        vocab_size = shapes.get(_EMBEDDING, (0,))[0]
        wanted: dict[str, Shape] = {_EMBEDDING: (vocab_size, self._config.hidden_size)}
        if not self._config.tie_text_head:
            wanted[_HEAD] = wanted[_EMBEDDING]
        for _, parts in transformer_layout(self._config):
            wanted |= parts
        for name, shape in wanted.items():
            if name not in shapes:
                raise InputError(f"{self.path}: no tensor '{name}'")
            if shapes[name] != shape:
                raise InputError(
                    f"{self.path}: tensor '{name}' must be {shape}, got {shapes[name]}"
                )
        # one more bias or norm would make it another model than the one we compute
        unknown = [n for n in shapes if n not in wanted and not n.endswith("rotary_emb.inv_freq")]
        if self._config.tie_text_head:
            unknown = [n for n in unknown if n != _HEAD]
        if unknown:
            raise InputError(f"{self.path}: tensor '{unknown[0]}' has no place in our model")
        return vocab_size


def _open(path: Path) -> HFFolder | GGUFBackbone:
    try:
        if path.is_dir():
            return HFFolder(path)
    except OSError as error:  # a folder above it may not be looked into
        raise InputError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise error if isinstance(error, InputError) else InputError(f"{path}: {error}") from error
    if path.suffix == ".gguf":
        return GGUFBackbone(path)
    raise InputError(f"{path}: a backbone is a Hugging Face folder or a .gguf file")


def backbone_sizes(path: str) -> dict[str, Any]:
    """Returns the values of `ModelConfig` that a backbone decides; for `load_config`.

    Raises:
        InputError: See `Backbone`.
    """
    return Backbone(path).sizes
