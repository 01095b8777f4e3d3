"""Stage 1: the LLM reads an item's text and says it again in n vectors, the item's palette.

Two causal passes stand for the paper's block attention:
  (a) content | palette queries     -> the n output states are the item's dense tokens
  (b) dense tokens | prompt | text  -> the text must be rebuilt from the dense tokens alone
Gradients flow from (b) into (a) through the pasted vectors.
Source: STORE, https://arxiv.org/abs/2409.07276 (v1), with LAMIA's contrastive loss (v3).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from store_engine.data.catalog import Catalog
from store_engine.data.packing import Document, PackedBatch, pack
from store_engine.files.token_file import TokenFile
from store_engine.model.attention import PackedSequences
from store_engine.model.store_model import StoreModel
from store_engine.model.targets import IGNORE, Targets
from store_engine.model.unified_vocabulary import UnifiedVocabulary
from store_engine.text.vocabulary import Vocabulary


class ItemTexts:
    """The catalogue's texts as token ids: what stage 1 reads, and what it must rebuild.

    Args:
        catalog: Items with text.
        vocabulary: Text tokens.
        max_tokens: Every attribute is cut after this many.
        written: The attributes as `write` wrote them; None encodes them into memory.

    Attributes:
        content_lengths: (num_items,) tokens of `content`.
        target_lengths: (num_items,) tokens of all texts in `reconstructions`, <eos> included.
        uncut_lengths: (num_items,) tokens of all texts before they were cut; of texts in memory.
    """

    def __init__(
        self,
        catalog: Catalog,
        vocabulary: Vocabulary,
        max_tokens: int,
        written: TokenFile | None = None,
    ) -> None:
        self.fields = tuple(catalog.fields)
        self.vocab_size = len(vocabulary)
        self.bos_id, self.eos_id = vocabulary.bos_id, vocabulary.eos_id
        self.prompts = [vocabulary.encode(f"{field}:") for field in self.fields]
        self.attributes: list[Sequence[list[int]]]
        if written is None:
            encoded = [list(map(vocabulary.encode, catalog.fields[field])) for field in self.fields]
            self.uncut_lengths = np.array([list(map(len, column)) for column in encoded]).sum(0)
            self.attributes = [[text[:max_tokens] for text in column] for column in encoded]
            lengths = np.array([[len(text) for text in column] for column in self.attributes])
        else:
            n = catalog.num_items
            self.attributes = [_Column(written, i * n, n) for i in range(len(self.fields))]
            lengths = np.diff(written.offsets).reshape(len(self.fields), n)
        is_there, prompts = lengths > 0, np.array([[len(prompt)] for prompt in self.prompts])
        self.content_lengths = 1 + (is_there * (lengths + prompts)).sum(0)
        self.target_lengths = (is_there * (lengths + 1)).sum(0)

    @staticmethod
    def write(catalog: Catalog, vocabulary: Vocabulary, max_tokens: int, folder: Path) -> TokenFile:
        """Writes the attributes' tokens, field after field, without holding them in memory."""
        columns = catalog.fields.values()
        documents = (vocabulary.encode(text)[:max_tokens] for column in columns for text in column)
        return TokenFile.write(folder, documents)

    @property
    def num_items(self) -> int:
        """Returns the number of items."""
        return len(self.attributes[0])

    def content(self, row: int) -> list[int]:
        """Returns <bos>, then every attribute that is not empty behind its prompt."""
        tokens = [self.bos_id]
        for prompt, texts in zip(self.prompts, self.attributes, strict=True):
            if texts[row]:
                tokens += prompt + texts[row]
        return tokens

    def reconstructions(self, row: int) -> list[tuple[int, list[int], list[int]]]:
        """Returns (field id, prompt, text + <eos>) of every attribute that is not empty."""
        return [
            (field_id, self.prompts[field_id], [*texts[row], self.eos_id])
            for field_id, texts in enumerate(self.attributes)
            if texts[row]
        ]


class _Column(Sequence[list[int]]):
    """One field's texts in a token file."""

    def __init__(self, file: TokenFile, begin: int, num_items: int) -> None:
        self._file, self._begin, self._num_items = file, begin, num_items

    def __len__(self) -> int:
        return self._num_items

    def __getitem__(self, row: Any) -> Any:
        tokens: list[int] = self._file[self._begin + row].tolist()
        return tokens


class TokenizerBatch(NamedTuple):
    """Both passes of one batch of items, packed."""

    content_tokens: Tensor  # (num_content_tokens,) int64, 0 where a palette query stands
    content_sequences: PackedSequences
    palette_slots: Tensor  # (num_items * num_codes,) where the palette queries stand
    text: PackedBatch  # pass (b); its documents begin with num_codes places for dense tokens
    text_sequences: PackedSequences
    targets: Targets  # of pass (b)
    filled_slots: Tensor  # (num_documents * num_codes,)
    item_of_document: Tensor  # (num_documents,) position of the item in the batch


def content_batch(
    texts: ItemTexts, rows: Sequence[int], num_codes: int
) -> tuple[Tensor, PackedSequences, Tensor]:
    """Pass (a) of the given items: tokens, sequences and palette slots, in the order of `rows`."""
    contents = [texts.content(row) + [0] * num_codes for row in rows]
    lengths = torch.tensor([len(content) for content in contents])
    slots = (lengths.cumsum(0)[:, None] - num_codes + torch.arange(num_codes)).flatten()
    tokens = torch.tensor([token for content in contents for token in content])
    return tokens, PackedSequences.from_lengths(lengths), slots


def tokenizer_batch(texts: ItemTexts, rows: Sequence[int], num_codes: int) -> TokenizerBatch:
    """Makes both passes of the given items.

    Args:
        texts: Token ids of the catalogue's text.
        rows: Catalogue rows.
        num_codes: Palette size n.
    """
    documents: list[Document] = []
    items: list[int] = []
    for i, row in enumerate(rows):
        for field_id, prompt, text in texts.reconstructions(row):
            head = num_codes + len(prompt)
            tokens = np.array([0] * num_codes + prompt + text[:-1], dtype=np.int64)
            targets = np.array([IGNORE] * (head - 1) + text, dtype=np.int64)
            documents.append(Document(tokens, targets, field_id))
            items.append(i)
    if not documents:  # no item has text: the pass still runs, as it does on every other rank
        nothing = np.full(num_codes, IGNORE, dtype=np.int64)
        documents, items = [Document(np.zeros_like(nothing), nothing, 0)], [0]
    # pack() sorts by length and is stable: the same order for the documents' items
    order = sorted(range(len(documents)), key=lambda d: len(documents[d].tokens), reverse=True)
    text_batch = pack(documents)
    slots = (text_batch.cu_seqlens[:-1, None] + torch.arange(num_codes)).flatten()
    return TokenizerBatch(
        *content_batch(texts, rows, num_codes),
        text_batch,
        PackedSequences(text_batch.cu_seqlens),
        Targets.of(text_batch.targets, UnifiedVocabulary(texts.vocab_size)),
        slots,
        torch.tensor([items[d] for d in order]),
    )


class DenseTokenizer(nn.Module):
    """The LLM with a learnable palette in front of its input.

    Args:
        model: The LLM; it needs no semantic tokens yet.
        num_codes: Palette size n, the codes an item will get.
    """

    def __init__(self, model: StoreModel, num_codes: int) -> None:
        super().__init__()
        self.model = model
        self.palette = _Palette(num_codes, model.config.hidden_size)
        self.paste_gain = _Gain() if model.config.backbone else nn.Identity()

    def forward(self, batch: TokenizerBatch) -> tuple[Tensor, Tensor]:
        """Encodes a batch of items and rebuilds their text.

        Returns:
            (num_targets,) float32 losses of the text tokens, and the items' dense tokens
            (num_items, num_codes, hidden_size).
        """
        vectors = self.encode(batch.content_tokens, batch.content_sequences, batch.palette_slots)
        embeddings = self.model.embed(batch.text.tokens)
        pasted = self.paste_gain(vectors)[batch.item_of_document].flatten(0, 1)
        embeddings = embeddings.index_copy(0, batch.filled_slots, pasted)
        hidden = self.model.hidden_states(embeddings, batch.text_sequences)
        return self.model.target_losses(hidden, batch.targets), vectors

    def encode(self, tokens: Tensor, sequences: PackedSequences, slots: Tensor) -> Tensor:
        """Pass (a): the items' dense tokens (num_items, num_codes, hidden_size)."""
        queries = self.palette(len(slots))
        embeddings = self.model.embed(tokens).index_copy(0, slots, queries)
        hidden = self.model.hidden_states(embeddings, sequences)
        return hidden[slots].unflatten(0, (-1, self.palette.num_codes))


class _Palette(nn.Module):
    """The n learnable input embeddings. A module, so that ZeRO-3 gathers its weight."""

    def __init__(self, num_codes: int, hidden_size: int) -> None:
        super().__init__()
        self.num_codes = num_codes
        self.weight = nn.Parameter(nn.init.normal_(torch.empty(num_codes, hidden_size), std=0.02))

    def forward(self, num_slots: int) -> Tensor:
        return self.weight.repeat(num_slots // self.num_codes, 1)


class _Gain(nn.Module):
    """A learned factor: a backbone's output states are an order larger than its embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


def contrastive_loss(vectors: Tensor, temperature: float, partners: Tensor | None = None) -> Tensor:
    """LAMIA's contrastive loss: an item's aspects differ, and so do items in one aspect.

    InfoNCE with each vector as its own positive: against the other vectors of its item, and against
    the same aspect of the batch's other items. All terms are averaged over all vectors. Items with
    partners add a term in which an aspect's positive is that of the partner, which is no negative
    of the item then.

    Args:
        vectors: (num_items, num_codes, hidden_size) dense tokens.
        temperature: Divides the cosine similarities.
        partners: (num_items,) int64, for each item the position of another one that it is to be
            near to.

    Returns:
        A scalar, float32.
    """
    unit = F.normalize(vectors.float(), dim=-1)
    aspects = torch.einsum("ind,imd->inm", unit, unit) / temperature  # (items, codes, codes)
    items = torch.einsum("ind,jnd->nij", unit, unit) / temperature  # (codes, items, items)
    if partners is None:
        return _info_nce(aspects) + _info_nce(items)
    itself = torch.eye(len(partners), device=items.device)
    others = items.masked_fill(itself[partners].bool(), -torch.inf)
    near = items.masked_fill(itself.bool(), -torch.inf)[:, :, partners]  # partners on the diagonal
    return _info_nce(aspects) + _info_nce(others) + _info_nce(near)


def _info_nce(similarity: Tensor) -> Tensor:
    positive = similarity.diagonal(dim1=-2, dim2=-1)
    return (similarity.logsumexp(-1) - positive).mean()


@torch.no_grad()
def encode_catalog(
    tokenizer: DenseTokenizer, texts: ItemTexts, num_codes: int, batch_size: int = 256
) -> np.ndarray:
    """Encodes every item into dense tokens: (num_items, num_codes, hidden_size) float32."""
    tokenizer.eval()
    rows, device = range(texts.num_items), tokenizer.palette.weight.device
    batches = (rows[i : i + batch_size] for i in range(0, len(rows), batch_size))
    vectors = []
    for batch in batches:
        tokens, sequences, slots = content_batch(texts, batch, num_codes)
        found = tokenizer.encode(tokens.to(device), sequences.to(device), slots.to(device))
        vectors.append(found.float().cpu())
    return torch.cat(vectors).numpy()
