"""Constrained beam search of transformers: `generate`, its prefix hook and a trie of Python dicts.

transformers normalises over the whole vocabulary and would rank differently from our engine, so a
processor first restricts its scores to the codes of the level that is being generated.
"""

import torch
from torch import Tensor
from transformers import (
    LlamaForCausalLM,
    LogitsProcessor,
    LogitsProcessorList,
    PrefixConstrainedLogitsProcessor,
)

from benchmarks.peers.catalog_tokens import CatalogTokens
from benchmarks.peers.dict_trie import DictTrie
from store_engine.decoding.engine import Engine
from store_engine.evaluation.plain_beam import Result
from store_engine.integrations.huggingface import export_huggingface

PAD = 0


class TransformersBeamSearch:
    """`generate` on the weights that our engine exports.

    Args:
        engine: Gives the model and the catalogue.
        bos: Token that every history begins with.
    """

    def __init__(self, engine: Engine, bos: int) -> None:
        self._offsets = list(engine.model.vocabulary.level_offsets)
        self._sizes = list(engine.trie.codebook_sizes)
        self._catalog = CatalogTokens(engine, bos)
        self._llama: LlamaForCausalLM = export_huggingface(engine.model).to(engine.device)
        self._trie = DictTrie(self._catalog.paths())

    def __call__(self, histories: list[list[int]], beam: int) -> Result:
        """Recommends `beam` items per history."""
        num_levels = self._catalog.num_levels
        prompts = self._catalog.prompts(histories)
        longest = max(map(len, prompts))
        padded = [[PAD] * (longest - len(p)) + p for p in prompts]
        mask = [[0] * (longest - len(p)) + [1] * len(p) for p in prompts]

        def allowed(batch_id: int, input_ids: Tensor) -> list[int]:
            return self._trie.following(input_ids[longest:])

        level_softmax = LevelSoftmax(self._offsets, self._sizes, longest)
        out = self._llama.generate(
            torch.tensor(padded, device=self._llama.device),
            attention_mask=torch.tensor(mask, device=self._llama.device),
            max_new_tokens=num_levels,
            num_beams=beam,
            num_return_sequences=beam,
            do_sample=False,
            length_penalty=0.0,
            early_stopping=False,
            top_k=None,
            top_p=None,
            pad_token_id=PAD,
            return_dict_in_generate=True,
            output_scores=True,
            # what generate makes of prefix_allowed_tokens_fn, but after the level's softmax
            logits_processor=LogitsProcessorList(
                [level_softmax, PrefixConstrainedLogitsProcessor(allowed, beam)]
            ),
        )
        shape = len(histories), beam
        paths = out.sequences[:, longest:].view(*shape, num_levels).tolist()
        scores = out.sequences_scores.view(shape).tolist()
        return self._catalog.items([list(map(tuple, some)) for some in paths], scores, beam)


class LevelSoftmax(LogitsProcessor):
    """Renormalises log-probabilities within the codes of the level that is being generated."""

    def __init__(self, offsets: list[int], sizes: list[int], prompt_length: int) -> None:
        self._offsets, self._sizes, self._prompt_length = offsets, sizes, prompt_length

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """(num_sequences, vocab_size) -> the same, -inf outside the level."""
        level = input_ids.shape[1] - self._prompt_length
        codes = slice(self._offsets[level], self._offsets[level] + self._sizes[level])
        constrained = torch.full_like(scores, -torch.inf)
        constrained[:, codes] = scores[:, codes].log_softmax(-1)
        return constrained
