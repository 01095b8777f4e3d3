"""Recommends by item rows and heads, with torch and transformers alone.

    recommender = AutoModel.from_pretrained(FOLDER, trust_remote_code=True)
    recommender.recommend([["item 3", "item 1"], []], k=10)  # lists of (item id, log-probability)

A copy of this file lies in a folder that `store-engine export --with-code` wrote. It scores every
item, so it is exact; on a CPU, in float32. The item-item evidence that the engine may add to
log-probabilities is left out. Shapes: B requests, H hidden_size, N items.
"""

import json
import os
from typing import Any

import torch
import torch.nn.functional as F
from huggingface_hub import snapshot_download
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel


class StoreRecommender(nn.Module):
    """The LLM with its item rows and heads.

    Args:
        llm: The causal LM of the folder.
        weights: What stands beside it.
        sids: Item id -> the tokens of its SID.
    """

    def __init__(self, llm: PreTrainedModel, weights: dict, sids: dict) -> None:
        super().__init__()
        self.llm, self.weights, self.config = llm, weights, llm.config
        ours = llm.config.store_engine
        self.item_ids = list(sids)
        self.row_of = {item_id: row for row, item_id in enumerate(self.item_ids)}
        codes = [[int(token[3:-1]) for token in sid] for sid in sids.values()]
        self.codes = torch.tensor(codes)  # (N, levels)
        self.has_rows = "item_rows.features" in weights
        num_levels = self.codes.shape[1] - self.has_rows
        sizes = ours["codebook_sizes"][:num_levels]
        begins = [ours["text_vocab_size"] + sum(sizes[:level]) for level in range(num_levels)]
        self.levels = list(zip(begins, sizes, strict=True))
        order = sorted(range(len(codes)), key=lambda row: (codes[row], row))
        self.slot = torch.empty(len(codes), dtype=torch.int64)  # rank of each row by its SID
        self.slot[torch.tensor(order)] = torch.arange(len(codes))
        self.max_history, self.reads_items = ours["max_history"], ours["reads_items"]

    @classmethod
    def from_pretrained(cls, folder: str, *args: Any, **options: Any) -> "StoreRecommender":
        """Loads the folder, or a repository of this name."""
        if not os.path.isdir(folder):
            revision, token = options.get("revision"), options.get("token")
            folder = snapshot_download(folder, revision=revision, token=token)
        llm = AutoModelForCausalLM.from_pretrained(folder)
        weights = load_file(os.path.join(folder, "store_engine", "items.safetensors"))
        with open(os.path.join(folder, "sids.json"), encoding="utf-8") as file:
            return cls(llm, weights, json.load(file)).eval()

    @classmethod
    def register_for_auto_class(cls, auto_class: object = None) -> None:
        """Called by `AutoModel`; there is nothing to remember."""

    @torch.no_grad()
    def recommend(self, histories: list, k: int = 10) -> list:
        """Returns the k best items of each history, as (item id, log-probability)."""
        scores = self.score([[self.row_of[item] for item in one] for one in histories])
        best, rows = scores.topk(min(k, scores.shape[1]), dim=1)
        return [
            [(self.item_ids[row], score) for row, score in zip(*one, strict=True)]
            for one in zip(rows.tolist(), best.tolist(), strict=True)
        ]

    @torch.no_grad()
    def score(self, histories: list) -> torch.Tensor:
        """Returns the log-probability of every item after each history of rows: (B, N)."""
        written, read = self._rows()
        states = torch.stack([self._last_state(one, read) for one in histories])  # (B, H)
        head = self.llm.get_output_embeddings().weight
        total = states.new_zeros(len(histories), len(self.codes))
        for level, (begin, size) in enumerate(self.levels):
            logits = F.linear(self._head(level, states), head[begin : begin + size])
            total += logits.log_softmax(1)[:, self.codes[:, level]]
        if self.has_rows:
            logits = F.linear(self._head(len(self.levels), states), written)
            total += _log_softmax_by_group(logits, self._prefixes())
        return total

    def _rows(self) -> tuple:
        """What is written and what is read of every item: (N, H) each, by catalogue row."""
        written = read = None
        weights = self.weights
        if self.has_rows:
            base = F.linear(weights["item_rows.features"], weights["item_rows.proj.weight"])
            read = (base + weights["item_rows.residual"])[self.slot]
            other = weights.get("item_rows.written_residual")
            written = read if other is None else (base + other)[self.slot]
        if self.reads_items:
            table = self.llm.get_input_embeddings().weight
            for level, (begin, _) in enumerate(self.levels):
                codes = table[begin + self.codes[:, level]]
                read = codes if read is None else read + codes
        return written, read

    def _last_state(self, history: list, read: torch.Tensor) -> torch.Tensor:
        """Runs one history through the LLM: (H,)."""
        table, rows = self.llm.get_input_embeddings().weight, history[-self.max_history :]
        inputs = [table[self.config.bos_token_id][None]]
        for row in rows:
            if not self.reads_items:
                begins = torch.tensor([begin for begin, _ in self.levels])
                inputs.append(table[begins + self.codes[row, : len(begins)]])
            if self.reads_items or self.has_rows:
                inputs.append(read[row][None])
        out = self.llm.base_model(inputs_embeds=torch.cat(inputs)[None])
        return out.last_hidden_state[0, -1]

    def _head(self, level: int, states: torch.Tensor) -> torch.Tensor:
        """The state that a level is read from: itself, plus a small SwiGLU of it."""
        up, down = (
            self.weights[f"level_heads.{level}.{name}_proj.weight"] for name in ("gate_up", "down")
        )
        gate, value = F.linear(states, up).chunk(2, dim=-1)
        return states + F.linear(F.silu(gate) * value, down)

    def _prefixes(self) -> torch.Tensor:
        """Numbers the prefix of every item: (N,)."""
        return self.codes[:, :-1].unique(dim=0, return_inverse=True)[1]


def _log_softmax_by_group(logits: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """A log-softmax of (B, N) within each group of columns, of which `groups` (N,) tells."""
    index = groups.expand_as(logits)
    size = int(groups.max()) + 1
    most = logits.new_full((len(logits), size), -torch.inf)
    most = most.scatter_reduce(1, index, logits, "amax").gather(1, index)
    total = logits.new_zeros(len(logits), size).scatter_add(1, index, (logits - most).exp())
    return logits - most - total.log().gather(1, index)
