"""The model as decoding runs it: embeddings, the transformer and what each level is read from."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from store_engine.catalog.item_slots import ItemSlots
from store_engine.config import ModelConfig
from store_engine.errors import InputError
from store_engine.inference.cache_attention import PrefillAttention, TreeAttention
from store_engine.inference.cpu_model import CpuTransformer, PackedLinear
from store_engine.inference.item_logits import item_logits
from store_engine.model.item_rows import Rows
from store_engine.model.store_model import StoreModel
from store_engine.model.unified_vocabulary import UnifiedVocabulary


class TransformerBody(Protocol):
    """All layers and the final norm, attending to a KV cache; see `Transformer.forward`."""

    def __call__(
        self,
        x: Tensor,
        positions: Tensor,
        attend: PrefillAttention | TreeAttention,
        output_indices: Tensor | None = None,
    ) -> Tensor:
        """Runs the layers: (num_tokens, hidden_size) -> the same, or (num_outputs, ...)."""


@dataclass(frozen=True)
class DecodingModel:
    """One form of a trained model. Make it with `for_torch`, `for_cpu` or `prepare_for_decoding`.

    Args:
        source: The trained model in eval mode, whose embeddings serve.
        transformer: Its layers.
        code_heads: Per level of codes (..., hidden_size) -> logits (..., codebook_size).
        item_slots: The items of the catalogue that is searched, where they are tokens; see
            `with_slots`.
    """

    source: StoreModel
    transformer: TransformerBody
    code_heads: tuple[Callable[[Tensor], Tensor], ...]
    item_slots: ItemSlots | None = None

    @classmethod
    def for_torch(cls, model: StoreModel) -> "DecodingModel":
        """Takes the model's own layers and heads, on any device and in any dtype."""

        def head(level: int) -> Callable[[Tensor], Tensor]:
            return lambda hidden: model.level_logits(hidden, level)

        return cls(model, model.transformer, tuple(map(head, range(len(model.codebook_sizes)))))

    @classmethod
    def for_cpu(cls, model: StoreModel) -> "DecodingModel":
        """Packs layers and heads for a CPU; later changes of the model's layers do not reach them.

        Args:
            model: On a CPU, in float32 or bfloat16.
        """
        offsets, sizes = model.vocabulary.code_offsets, model.codebook_sizes
        weights = (
            model.code_head.weight[begin : begin + size]
            for begin, size in zip(offsets, sizes, strict=True)
        )
        heads = tuple(PackedLinear(weight) for weight in weights)
        return cls(model, CpuTransformer(model.transformer), heads)

    def with_slots(self, item_slots: ItemSlots | None) -> "DecodingModel":
        """Returns the same model for the items of another catalogue."""
        return self if item_slots is self.item_slots else replace(self, item_slots=item_slots)

    @property
    def config(self) -> ModelConfig:
        """Sizes."""
        return self.source.config

    @property
    def vocabulary(self) -> UnifiedVocabulary:
        """Unified ids of text and codes."""
        return self.source.vocabulary

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.source.code_head.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the weights."""
        return self.source.code_head.weight.dtype

    @property
    def has_heads(self) -> bool:
        """Every level is read from the history's last state: no code is a step of the model."""
        return self.source.level_heads is not None

    @property
    def reads_prefixes(self) -> bool:
        """The last code is the item itself, whose logits depend on the codes before."""
        return self.item_slots is not None and self.item_slots.places is not None

    def embed(self, tokens: Tensor) -> Tensor:
        """Embeds unified ids (num_tokens,) int64 -> (num_tokens, hidden_size)."""
        if self.item_slots is None or self.item_slots.read is None:
            return self.source.embed(tokens)
        read, items = self.item_slots.read, self.source.items
        if items is None or not items.are_read:
            return self.source.embed(tokens, Rows(read, read))
        slots = tokens - self.vocabulary.item_offset
        text = self.source.text_embedding(tokens.masked_fill(slots >= 0, 0))
        return torch.where((slots >= 0)[:, None], read[slots.clamp(min=0)], text)

    def embed_codes(self, codes: Tensor, level: int) -> Tensor:
        """Embeds codes of one level: (num_tokens,) int64 -> (num_tokens, hidden_size)."""
        embedded: Tensor = self.source.code_embedding(codes + self.vocabulary.code_offsets[level])
        return embedded

    def head_states(self, state: Tensor, level: int) -> Tensor:
        """What a level is read from, where it is by heads: (batch, hidden_size), the same shape."""
        assert self.source.level_heads is not None
        head_state: Tensor = self.source.level_heads[level](state)
        return head_state

    def level_logits(self, hidden: Tensor, level: int) -> Tensor:
        """Logits over one level's codes: (..., hidden_size) -> (..., codebook_sizes[level])."""
        return self.code_heads[level](hidden)

    def is_item_level(self, level: int) -> bool:
        """The level's code is the item itself."""
        return level == len(self.code_heads)

    def logits(self, states: Tensor, level: int, prefixes: Tensor) -> Tensor:
        """Logits of the codes that may follow some prefixes.

        Args:
            states: (batch, width, hidden_size) what each is read from; or (batch, 1, hidden_size),
                one for all prefixes of a request.
            level: Level of the codes.
            prefixes: (batch, width) int64, the codes of each prefix as one number; see
                `next_prefixes`; -1 for none, whose logits are of no matter. They matter only where
                the level's code is the item itself.

        Returns:
            (batch, width, codebook_size); -inf for a code that no item has, where the last code is
            the item itself.
        """
        if not self.is_item_level(level):
            logits = self.level_logits(states.flatten(0, 1), level)
            return logits.view(*states.shape[:2], -1).expand(-1, prefixes.shape[1], -1)
        assert self.item_slots is not None
        places, rows = self.item_slots.places, self.item_slots.written
        assert places is not None
        assert rows is not None
        rows = rows[: self.item_slots.num_slots]
        return item_logits(states, rows, places.slots, places.find(prefixes))

    def next_prefixes(self, prefixes: Tensor, codes: Tensor, level: int) -> Tensor:
        """Appends codes of a level to prefixes, any shape, int64; the empty prefix is 0."""
        return prefixes * self.source.codebook_sizes[level] + codes


def prepare_for_decoding(model: StoreModel) -> DecodingModel:
    """Chooses the fastest form of a model: packed on a CPU, where its dtype has kernels."""
    model = model.eval()
    weight = model.code_head.weight
    is_packed = weight.device.type == "cpu" and weight.dtype in (torch.float32, torch.bfloat16)
    return DecodingModel.for_cpu(model) if is_packed else DecodingModel.for_torch(model)


class NonFiniteWeightsError(InputError):
    """A model's weights are NaN or infinite."""


def check_finite(model: StoreModel) -> None:
    """Refuses weights with which every answer would be wrong.

    Raises:
        NonFiniteWeightsError: A weight is NaN or infinite; names the first one, and how many of
            its numbers are.
    """
    named = list(model.named_parameters())
    is_finite = torch.stack([weight.isfinite().all() for _, weight in named]).cpu()
    for (name, weight), is_good in zip(named, is_finite.tolist(), strict=True):
        if not is_good:
            num_bad = int((~weight.isfinite()).sum())
            raise NonFiniteWeightsError(
                f"weight {name} holds NaN or infinity: {num_bad} of {weight.numel()} numbers"
            )
