"""Beam search over the catalogue inside `transformers.generate`, where speed counts.

    exported.generate(prompts, custom_generate=TrieBeamSearch(engine), num_beams=20,
                      num_return_sequences=20, max_new_tokens=num_levels)

It finds what `generate` finds with a `TrieLogitsProcessor`. But that computes every prompt once
for each beam, and the whole vocabulary at each step; here a prompt is computed once and kept once,
its beams are a tree of tokens behind it, and a step computes only its level's codes, which the C++
core searches. For transformers that take a function as `custom_generate`.
"""

import inspect
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache, GenerationConfig, PreTrainedModel
from transformers.generation import GenerateBeamDecoderOnlyOutput

from store_engine._C import BeamStep, beam_step
from store_engine.errors import InputError
from store_engine.integrations.sid_constraint import AnyCatalog, SidConstraint

_TREE_ATTENTION = ("sdpa", "eager")  # that take a mask (batch, 1, num_tokens, cache)


class TrieBeamSearch:
    """A `custom_generate` that writes the best SIDs of a catalogue.

    Of the generation config it heeds num_beams, num_return_sequences, pad_token_id and
    return_dict_in_generate. Where a catalogue has fewer SIDs than are asked for, the last
    sequences end in pad tokens with score -inf.

    Args:
        catalog: As for `TrieLogitsProcessor`, taken as it is now.
        text_vocab_size: As there.
    """

    def __init__(self, catalog: AnyCatalog, text_vocab_size: int | None = None) -> None:
        self._constraint = SidConstraint(catalog, text_vocab_size)

    @torch.no_grad()
    def __call__(
        self,
        model: PreTrainedModel,
        input_ids: Tensor,
        generation_config: GenerationConfig,
        **others: Any,
    ) -> Tensor | GenerateBeamDecoderOnlyOutput:
        """Decodes; `generate` calls it.

        Args:
            model: The LLM.
            input_ids: (batch * repeats, seq_len), each prompt as often as `generate` repeats it.
            generation_config: What the caller asked for.
            others: `attention_mask`, without which nothing is padded, and what a search that is not
                constrained would need.

        Raises:
            InputError: `max_new_tokens` leaves no room for a SID, or the model's attention takes no
                mask of its own.
            ValueError: The model gave NaN or +inf, or its vocabulary has no room for the codes.
        """
        num_levels, width = self._constraint.vocabulary.num_levels, generation_config.num_beams
        room = generation_config.max_length - input_ids.shape[1]
        if room < num_levels:
            raise InputError(f"max_new_tokens must be at least {num_levels}, a SID's, got {room}")
        attention = model.config._attn_implementation
        if attention not in _TREE_ATTENTION:
            raise InputError(
                f"TrieBeamSearch needs attn_implementation 'sdpa' or 'eager', got {attention!r}: "
                "model.set_attn_implementation('sdpa')"
            )
        repeats = max(width, generation_config.num_return_sequences)
        prompts = input_ids[::repeats]
        mask = others.get("attention_mask")
        mask = torch.ones_like(prompts) if mask is None else mask[::repeats]
        codes, scores = self._search(model, prompts, mask, width)
        num_wanted, pad = generation_config.num_return_sequences, generation_config.pad_token_id
        written = codes.new_full((len(prompts), num_wanted, num_levels), pad or 0)
        ranked = scores.new_full((len(prompts), num_wanted), -torch.inf)
        found = min(codes.shape[1], num_wanted)
        is_one = scores[:, :found] > -torch.inf
        ranked[:, :found] = scores[:, :found]
        written[:, :found] = torch.where(is_one[..., None], codes[:, :found], pad or 0)
        prompt_of_each = prompts.repeat_interleave(num_wanted, 0)
        sequences = torch.cat([prompt_of_each, written.flatten(0, 1)], 1)
        if not generation_config.return_dict_in_generate:
            return sequences
        return GenerateBeamDecoderOnlyOutput(sequences=sequences, sequences_scores=ranked.flatten())

    def _search(
        self, model: PreTrainedModel, prompts: Tensor, mask: Tensor, width: int
    ) -> tuple[Tensor, Tensor]:
        """Returns the codes as unified ids (batch, beams, num_levels), and their scores."""
        constraint, batch, device = self._constraint, len(prompts), prompts.device
        vocabulary, trie, cache = constraint.vocabulary, constraint.trie, DynamicCache()
        cache_name, head = _cache_name(model), model.get_output_embeddings().weight
        constraint.check_vocab_size(len(head))
        positions = mask.cumsum(1) - 1
        next_position, seen, tokens = positions[:, -1:] + 1, mask, prompts
        visible = mask.bool()[
            :, None
        ]  # (batch, num_beams, cache), what each beam sees of the cache
        codes, beams = prompts.new_zeros(batch, 1, 0), _root(batch)
        for level, size in enumerate(vocabulary.codebook_sizes):
            hidden = model.base_model(
                input_ids=tokens,
                attention_mask=seen,
                position_ids=positions.clamp(min=0),
                **{cache_name: cache},
                use_cache=True,
            ).last_hidden_state
            begin = vocabulary.level_offsets[level]
            hidden = hidden[:, -codes.shape[1] :]  # of a prompt, its last token's
            of_level = F.linear(hidden, head[begin : begin + size]).float()
            beams = beam_step(
                trie,
                level,
                of_level.cpu().contiguous().numpy(),
                *(beams.scores, beams.nodes, beams.num_valid),
                max(1, min(width, trie.level_sizes[level])),
            )
            # an empty slot goes on as some beam that nobody reads
            parents = torch.from_numpy(beams.parents).to(device).clamp(min=0)[..., None]
            tokens = torch.from_numpy(beams.tokens).to(device).clamp(min=0) + begin
            before = codes.gather(1, parents.expand(-1, -1, level))
            codes = torch.cat([before, tokens[..., None]], 2)
            itself = torch.eye(codes.shape[1], dtype=torch.bool, device=device)
            visible = visible.gather(1, parents.expand(-1, -1, visible.shape[2]))
            visible = torch.cat([visible, itself.expand(batch, -1, -1)], 2)
            hidden_from = torch.finfo(head.dtype).min
            seen = torch.zeros_like(visible, dtype=head.dtype).masked_fill(~visible, hidden_from)
            seen, positions = seen[:, None], (next_position + level).expand_as(tokens)
        return codes, torch.from_numpy(beams.scores).to(device)


def _root(batch: int) -> BeamStep:
    """One beam per request, at the root."""
    zeros = np.zeros((batch, 1), dtype=np.int64)
    scores = np.zeros((batch, 1), dtype=np.float32)
    return BeamStep(scores, zeros, zeros, zeros, np.ones(batch, dtype=np.int64))


def _cache_name(model: PreTrainedModel) -> str:
    """What the cache is called: transformers 5 renames it."""
    names = inspect.signature(model.base_model.forward).parameters
    return "cache" if "cache" in names else "past_key_values"
