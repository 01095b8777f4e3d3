"""The one LLM with both of its vocabularies: text tokens and semantic tokens.

Token ids are those of `UnifiedVocabulary`. Semantic tokens have an embedding and a head of their
own beside the text's; items that are tokens have rows (`item_rows`). No softmax ever runs over more
than a target's own sub-vocabulary: all text tokens, one level's codes, or the items of one prefix.
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from store_engine.config import ModelConfig
from store_engine.kernels.linear_cross_entropy import (
    linear_cross_entropy,
    linear_cross_entropy_ref,
)
from store_engine.kernels.masked_softmax import masked_softmax
from store_engine.model.attention import PackedSequences
from store_engine.model.item_rows import ItemRows, ItemTokens, LevelHead, Rows
from store_engine.model.transformer import (
    INIT_STD,
    Block,
    CheckpointedBlock,
    Transformer,
    dropout_rate,
)
from store_engine.model.unified_vocabulary import UnifiedVocabulary

IGNORE = -100  # a position without a target


class Embedding(nn.Embedding):
    """Input embeddings of one vocabulary, initialised before ZeRO-3 may partition them."""

    weight: nn.Parameter

    def __init__(self, num_tokens: int, hidden_size: int) -> None:
        super().__init__(num_tokens, hidden_size)
        nn.init.normal_(self.weight, std=INIT_STD)


class Head(nn.Module):
    """Output embeddings of one vocabulary. A module, so that ZeRO-3 gathers its weight.

    Args:
        weight: (vocab_size, hidden_size).
        is_fused: False materialises the logits: slower, the same losses.
    """

    def __init__(self, weight: nn.Parameter, is_fused: bool = True) -> None:
        super().__init__()
        self.weight = weight
        self.is_fused = is_fused

    def forward(
        self, hidden: Tensor, targets: Tensor, start: Tensor | int, length: Tensor | int
    ) -> Tensor:
        """Computes each row's loss over weight[start : start + length]: (num_rows,) float32."""
        if self.is_fused:
            return linear_cross_entropy(
                hidden, self.weight, targets, start, length, reduction="none"
            )
        logits = F.linear(hidden, self.weight).float()
        logprobs = masked_softmax(logits, (start, length), log=True)
        return -logprobs.gather(1, targets[:, None]).squeeze(1)

    def logits(self, hidden: Tensor, begin: int, size: int) -> Tensor:
        """Logits over weight[begin : begin + size]: (..., hidden_size) -> (..., size)."""
        return F.linear(hidden, self.weight[begin : begin + size])


class RowLoss(nn.Module):
    """The loss over a slice of rows that are computed in every step: the items of one prefix.

    Args:
        is_fused: As for `Head`.
    """

    def __init__(self, is_fused: bool) -> None:
        super().__init__()
        self.is_fused = is_fused

    def forward(
        self, hidden: Tensor, rows: Tensor, targets: Tensor, start: Tensor | int, length: Any
    ) -> Tensor:
        """Computes each row's loss over rows[start : start + length]: (num_rows,) float32."""
        if self.is_fused:
            return linear_cross_entropy(hidden, rows, targets, start, length, reduction="none")
        return linear_cross_entropy_ref(hidden, rows, targets, start, length, reduction="none")


class StoreModel(nn.Module):
    """Embeddings, transformer and heads.

    Args:
        config: Sizes.
        text_vocab_size: Number of text tokens.
        codebook_sizes: Codes per level that has rows of codes; empty while items have no codes yet
            (stage 1).
        items: The items that are tokens themselves; None: codes alone.
        skip: A code behind the first also sees the state that the first was read from.
        fused_loss: False materialises the logits of a loss: slower, the same losses.
        activation_checkpointing: Keep the layers' inputs alone and compute the rest again.
    """

    slot_codes: Tensor  # (num_items, num_code_levels) rows of the code tables, by slot
    slot_begin: Tensor  # (num_items,) first slot of those that share the item's codes
    slot_count: Tensor  # (num_items,) number of these

    def __init__(
        self,
        config: ModelConfig,
        text_vocab_size: int,
        codebook_sizes: tuple[int, ...] = (),
        *,
        items: ItemTokens | None = None,
        skip: bool = False,
        fused_loss: bool = True,
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.config, self.items, self.skip = config, items, skip
        num_items = len(items) if items is not None else 0
        self.vocabulary = UnifiedVocabulary(text_vocab_size, codebook_sizes, num_items)
        self.text_embedding = Embedding(text_vocab_size, config.hidden_size)
        block = CheckpointedBlock if activation_checkpointing else Block
        self.transformer = Transformer(config, block)
        if config.tie_text_head:
            self.text_head = Head(self.text_embedding.weight, fused_loss)
        else:
            self.text_head = _head(text_vocab_size, config.hidden_size, fused_loss)
        if codebook_sizes:
            self.code_embedding = Embedding(sum(codebook_sizes), config.hidden_size)
            self.code_head = _head(sum(codebook_sizes), config.hidden_size, fused_loss)
        self.item_rows: ItemRows | None = None
        self.level_heads: nn.ModuleList | None = None
        if items is not None:
            self._add_items(items, fused_loss)
        self.dropout = nn.Dropout(dropout_rate(config, "embedding"))
        self.head_dropout = nn.Dropout(dropout_rate(config, "head"))

    def _add_items(self, items: ItemTokens, fused_loss: bool) -> None:
        hidden_size = self.config.hidden_size
        if items.have_rows:
            self.item_rows = ItemRows(items, hidden_size)
            self.item_loss = RowLoss(fused_loss)
        if items.head_size:
            rate = dropout_rate(self.config, "head")
            heads = (LevelHead(hidden_size, items.head_size, rate) for _ in range(items.num_levels))
            self.level_heads = nn.ModuleList(heads)
        offsets = np.array(self.vocabulary.code_offsets[: items.codes.shape[1]], dtype=np.int64)
        slot_codes = torch.from_numpy(items.codes.astype(np.int64) + offsets)
        begins, counts = map(torch.from_numpy, items.slices)
        for name, buffer in (("codes", slot_codes), ("begin", begins), ("count", counts)):
            self.register_buffer(f"slot_{name}", buffer, persistent=False)

    @property
    def text_vocab_size(self) -> int:
        """Returns the number of text tokens."""
        return self.vocabulary.text_size

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """Codes per level."""
        return self.vocabulary.codebook_sizes

    @property
    def is_plain(self) -> bool:
        """Whether the LLM is all of the model: it reads and writes codes, step by step."""
        return self.items is None and not self.skip

    def embed(self, tokens: Tensor, rows: Rows | None = None) -> Tensor:
        """Embeds unified ids (...) int64 -> (..., hidden_size).

        Args:
            tokens: The ids.
            rows: The items' rows, if they are at hand.
        """
        text_size, item_offset = self.text_vocab_size, self.vocabulary.item_offset
        if not self.codebook_sizes and self.items is None:
            return self.text_embedding(tokens)
        is_text, is_item = tokens < text_size, tokens >= item_offset
        embedded = self.text_embedding(tokens.masked_fill(~is_text, 0))
        if self.codebook_sizes and not (self.items is not None and self.items.are_read):
            codes = self.code_embedding((tokens - text_size).clamp(0, item_offset - text_size - 1))
            embedded = torch.where(is_text[..., None], embedded, codes)
        if self.items is None or not (self.items.are_read or self.items.have_rows):
            return embedded
        slots = (tokens - item_offset).clamp(min=0)
        return torch.where(is_item[..., None], self.embed_items(slots, rows), embedded)

    def embed_items(self, slots: Tensor, rows: Rows | None = None) -> Tensor:
        """Embeds items by slot, (...) int64 -> (..., hidden_size).

        As the last code of a SID an item is its row; as a position of its own it is the sum of the
        row and its codes.
        """
        assert self.items is not None
        embedded: Tensor | None = None
        if self.item_rows is not None:
            embedded = (rows or self.item_rows()).read[slots]
        if self.items.are_read and self.codebook_sizes:
            codes = self.code_embedding(self.slot_codes[slots]).sum(-2)
            embedded = codes if embedded is None else embedded + codes
        assert embedded is not None
        return embedded

    def level_logits(self, hidden: Tensor, level: int) -> Tensor:
        """Logits over one level's codes: (..., hidden_size) -> (..., codebook_sizes[level])."""
        begin, size = self.vocabulary.code_offsets[level], self.codebook_sizes[level]
        return self.code_head.logits(hidden, begin, size)

    def forward(self, tokens: Tensor, sequences: PackedSequences, targets: Tensor) -> Tensor:
        """Computes the next-token losses of a packed batch, of text and of codes alike.

        Args:
            tokens: (num_tokens,) int64 unified ids.
            sequences: Where each sequence begins.
            targets: (num_tokens,) int64 unified ids, `IGNORE` where there is none.

        Returns:
            (num_targets,) float32 losses, in the order of the positions that have a target. The
            loss of an item that heads write is the sum over its levels.
        """
        rows = self.item_rows() if self.item_rows is not None else None
        hidden = self.hidden_states(self.embed(tokens, rows), sequences)
        return self.target_losses(hidden, targets, rows)

    def hidden_states(self, embeddings: Tensor, sequences: PackedSequences) -> Tensor:
        """Runs the transformer over packed embeddings (num_tokens, hidden_size), same shape."""
        return self.transformer(self.dropout(embeddings), sequences.positions, sequences)

    def target_losses(self, hidden: Tensor, targets: Tensor, rows: Rows | None = None) -> Tensor:
        """Computes each target's cross-entropy over its own sub-vocabulary; see `forward`."""
        at = (targets != IGNORE).nonzero()[:, 0]
        targets = targets[at]
        is_text, is_item = targets < self.text_vocab_size, targets >= self.vocabulary.item_offset
        text, items = is_text.nonzero()[:, 0], is_item.nonzero()[:, 0]
        codes = (~is_text & ~is_item).nonzero()[:, 0]
        # all heads run even on no rows: under ZeRO-3 every rank must gather the same weights
        losses = hidden.new_zeros(len(targets), dtype=torch.float32)
        losses = losses.index_copy(0, text, self._text_losses(hidden[at[text]], targets[text]))
        if self.codebook_sizes:
            level = self.vocabulary.level_of(targets[codes])
            state = self._code_state(hidden, at[codes], level)
            losses = losses.index_copy(0, codes, self._code_losses(state, targets[codes], level))
        if self.items is not None and (self.item_rows is not None or self.level_heads is not None):
            slots = targets[items] - self.vocabulary.item_offset
            losses = losses.index_copy(0, items, self._item_losses(hidden, at[items], slots, rows))
        return losses

    def _code_state(self, hidden: Tensor, at: Tensor, level: Tensor) -> Tensor:
        """The states that codes of these levels are read from, (num_targets, hidden_size)."""
        state = hidden[at]
        if self.skip:
            is_behind = (level > 0) & (level < self.num_item_levels)
            first = hidden[at - level * is_behind]
            state = torch.where(is_behind[:, None], state + first, state)
        return self.head_dropout(state)

    @property
    def num_item_levels(self) -> int:
        """Levels of an item's SID; the labels of other tasks are levels behind them."""
        return self.items.num_levels if self.items is not None else len(self.codebook_sizes)

    def _item_losses(self, hidden: Tensor, at: Tensor, slots: Tensor, rows: Rows | None) -> Tensor:
        """The losses of whole items by heads, or of their last level behind the others."""
        begin, count = self.slot_begin[slots], self.slot_count[slots]
        num_codes = int(self.slot_codes.shape[1])
        losses = hidden.new_zeros(len(slots), dtype=torch.float32)
        if self.level_heads is None:
            state = self._code_state(hidden, at, torch.full_like(at, num_codes))
        else:
            states = [head(self.head_dropout(hidden[at])) for head in self.level_heads]
            for level in range(num_codes):
                ids = self.slot_codes[slots, level] + self.text_vocab_size
                losses = losses + self._code_losses(states[level], ids, torch.full_like(ids, level))
            state = states[-1]
        if self.item_rows is not None:
            assert rows is not None and self.items is not None
            losses = losses + self.item_loss(state, rows.written, slots, begin, count)
            if weight := self.items.softmax_weight:
                everything = self.item_loss(state, rows.written, slots, 0, len(self.items))
                losses = losses + weight * everything
        return losses

    def _text_losses(self, hidden: Tensor, targets: Tensor) -> Tensor:
        return self.text_head(hidden, targets, 0, self.text_vocab_size)

    def _code_losses(self, hidden: Tensor, targets: Tensor, level: Tensor) -> Tensor:
        starts = torch.tensor(self.vocabulary.code_offsets, device=targets.device)
        sizes = torch.tensor(self.codebook_sizes, device=targets.device)
        codes = targets - self.text_vocab_size  # rows of the semantic head
        return self.code_head(hidden, codes, starts[level], sizes[level])


def _head(vocab_size: int, hidden_size: int, is_fused: bool) -> Head:
    weight = torch.empty(vocab_size, hidden_size)
    return Head(nn.Parameter(nn.init.normal_(weight, std=INIT_STD)), is_fused)
