"""The one LLM with both of its vocabularies: text tokens and semantic tokens.

Token ids are those of `UnifiedVocabulary`. Semantic tokens have an embedding and a head of their
own beside the text's. No softmax ever runs over more than a target's own sub-vocabulary: all text
tokens, or one level's codes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from store_engine.config import ModelConfig
from store_engine.kernels.linear_cross_entropy import linear_cross_entropy
from store_engine.kernels.masked_softmax import masked_softmax
from store_engine.model.attention import PackedSequences
from store_engine.model.transformer import INIT_STD, Block, CheckpointedBlock, Transformer
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

    def forward(self, hidden: Tensor, targets: Tensor, start: Tensor, length: Tensor) -> Tensor:
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


class StoreModel(nn.Module):
    """Embeddings, transformer and heads.

    Args:
        config: Sizes.
        text_vocab_size: Number of text tokens.
        codebook_sizes: Codes per level; empty while items have no codes yet (stage 1).
        fused_loss: False materialises the logits of a loss: slower, the same losses.
        activation_checkpointing: Keep the layers' inputs alone and compute the rest again.
    """

    def __init__(
        self,
        config: ModelConfig,
        text_vocab_size: int,
        codebook_sizes: tuple[int, ...] = (),
        *,
        fused_loss: bool = True,
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.config = config
        self.vocabulary = UnifiedVocabulary(text_vocab_size, codebook_sizes)
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
        self.dropout = nn.Dropout(config.dropout)

    @property
    def text_vocab_size(self) -> int:
        """Returns the number of text tokens."""
        return self.vocabulary.text_size

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """Codes per level."""
        return self.vocabulary.codebook_sizes

    def embed(self, tokens: Tensor) -> Tensor:
        """Embeds unified ids (...) int64 -> (..., hidden_size)."""
        if not self.codebook_sizes:
            return self.text_embedding(tokens)
        is_code = tokens >= self.text_vocab_size
        text = self.text_embedding(tokens.masked_fill(is_code, 0))
        codes = self.code_embedding((tokens - self.text_vocab_size).clamp(min=0))
        return torch.where(is_code[..., None], codes, text)

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
            (num_targets,) float32 losses, in the order of the positions that have a target.
        """
        hidden = self.hidden_states(self.embed(tokens), sequences)
        return self.target_losses(hidden, targets)

    def hidden_states(self, embeddings: Tensor, sequences: PackedSequences) -> Tensor:
        """Runs the transformer over packed embeddings (num_tokens, hidden_size), same shape."""
        return self.transformer(self.dropout(embeddings), sequences.positions, sequences)

    def target_losses(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Computes each target's cross-entropy over its own sub-vocabulary; see `forward`."""
        has_target = targets != IGNORE
        hidden, targets = hidden[has_target], targets[has_target]
        is_code = targets >= self.text_vocab_size
        text, codes = (~is_code).nonzero().squeeze(1), is_code.nonzero().squeeze(1)
        # both heads run even on no rows: under ZeRO-3 every rank must gather the same weights
        losses = hidden.new_zeros(len(targets), dtype=torch.float32)
        losses = losses.index_copy(0, text, self._text_losses(hidden[text], targets[text]))
        if self.codebook_sizes:
            losses = losses.index_copy(0, codes, self._code_losses(hidden[codes], targets[codes]))
        return losses

    def _text_losses(self, hidden: Tensor, targets: Tensor) -> Tensor:
        start = torch.zeros_like(targets)
        length = torch.full_like(targets, self.text_vocab_size)
        return self.text_head(hidden, targets, start, length)

    def _code_losses(self, hidden: Tensor, targets: Tensor) -> Tensor:
        starts = torch.tensor(self.vocabulary.code_offsets, device=targets.device)
        sizes = torch.tensor(self.codebook_sizes, device=targets.device)
        level = self.vocabulary.level_of(targets)
        codes = targets - self.text_vocab_size  # rows of the semantic head
        return self.code_head(hidden, codes, starts[level], sizes[level])


def _head(vocab_size: int, hidden_size: int, is_fused: bool) -> Head:
    weight = torch.empty(vocab_size, hidden_size)
    return Head(nn.Parameter(nn.init.normal_(weight, std=INIT_STD)), is_fused)
