"""The models of the training benchmark, of the same weights, and the batches that each reads."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.training.task import CODEBOOK_SIZES, MODELS, Task, draw_documents, vocabulary
from store_engine.data.packing import Document, pack
from store_engine.kernels.linear_cross_entropy import linear_cross_entropy
from store_engine.model.attention import PackedSequences
from store_engine.model.store_model import StoreModel
from store_engine.model.targets import Targets
from store_engine.training.host_batch import HostBatch


class PaddedLlama(nn.Module):
    """LlamaForCausalLM of our model's sizes and weights, on padded batches; its head is tied."""

    def __init__(self, ours: StoreModel) -> None:
        super().__init__()
        from store_engine.integrations.huggingface import export_huggingface

        self.llama = export_huggingface(ours)
        self.llama.config.tie_word_embeddings = True
        self.llama.lm_head.weight = self.llama.model.embed_tokens.weight

    def forward(self, tokens: Tensor, mask: Tensor, targets: Tensor) -> Tensor:
        """Its own mean loss over the joint vocabulary."""
        out = self.llama(tokens, attention_mask=mask, labels=targets, shift_labels=targets)
        loss: Tensor = out.loss
        return loss


class PackedStoreModel(nn.Module):
    """Our model; with plain targets one softmax over the joint vocabulary, as transformers does."""

    def __init__(self, model: StoreModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, tokens: Tensor, sequences: PackedSequences, targets: Targets | Tensor
    ) -> Tensor:
        """The mean loss."""
        if not isinstance(targets, Tensor):
            losses: Tensor = self.model(tokens, sequences, targets)
            return losses.mean()
        hidden = self.model.hidden_states(self.model.embed(tokens), sequences)
        weight = torch.cat([self.model.text_head.weight, self.model.code_head.weight])
        return linear_cross_entropy(hidden, weight, targets)


def build_model(task: Task) -> StoreModel:
    """Our model with its code head tied, as the peer's is."""
    torch.manual_seed(0)
    model = StoreModel(MODELS[task.model], vocabulary().text_size, CODEBOOK_SIZES)
    model.code_head.weight = model.code_embedding.weight
    return model.to(task.device, getattr(torch, task.dtype))


def packed_batch(documents: list[Document], device: str, is_joint: bool = False) -> tuple[Any, ...]:
    """What `PackedStoreModel` reads."""
    batch = pack(documents)
    targets = batch.targets if is_joint else Targets.of(batch.targets, vocabulary())
    parts = (batch.tokens, PackedSequences(batch.cu_seqlens), targets)
    moved: tuple[Any, ...] = HostBatch(parts, torch.device(device)).to_device()
    return moved


def padded_batch(documents: list[Document], device: str) -> tuple[Any, ...]:
    """What `PaddedLlama` reads."""

    def pad(arrays: list[Any], value: int) -> Tensor:
        tensors = [torch.from_numpy(x) for x in arrays]
        padded = nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=value)
        return padded.to(device)

    tokens = pad([d.tokens for d in documents], 0)
    mask = pad([np.ones_like(d.tokens) for d in documents], 0)
    return tokens, mask, pad([d.targets for d in documents], -100)


def check_losses(task: Task) -> None:
    """Raises AssertionError unless our loss over the joint vocabulary is the peer's."""
    documents = draw_documents(task)[:8]
    model = build_model(task)
    with torch.no_grad():
        ours = PackedStoreModel(model)(*packed_batch(documents, task.device, is_joint=True))
        theirs = PaddedLlama(model).to(task.device)(*padded_batch(documents, task.device))
    atol = 1e-4 if task.dtype == "float32" else 2e-2
    torch.testing.assert_close(ours.float(), theirs.float(), atol=atol, rtol=0)
