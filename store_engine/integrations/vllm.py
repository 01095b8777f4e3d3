"""A logits processor for vLLM: an exported model writes SIDs of the catalogue and nothing else.

    llm = LLM("exported", logits_processors=["store_engine.integrations.vllm:SidLogitsProcessor"],
              logprobs_mode="processed_logits", max_logprobs=40)
    beams = BeamSearchParams(beam_width=20, max_tokens=num_levels, ignore_eos=True)
    llm.beam_search(prompts, beams)

It reads config.json and trie.bin, which `store-engine export` wrote into the folder. docs/vllm.md
has prompts and the way back to item ids.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from vllm import SamplingParams
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor
from vllm.v1.sample.logits_processor.builtin import process_dict_updates

from store_engine.errors import InputError, shown
from store_engine.integrations.exported_folder import last_tokens
from store_engine.integrations.sid_constraint import SidConstraint

if TYPE_CHECKING:
    from vllm.config import VllmConfig

OPTION = "sids"  # in SamplingParams.extra_args
_PROCESSED = ("processed_logits", "processed_logprobs")

Tokens = tuple[list[int], list[int]]  # the end of a prompt, and all output so far: vLLM's own list


class SidLogitsProcessor(LogitsProcessor):
    """Leaves only codes that lead to an item, with their log-probability within the level.

    With `logprobs_mode="processed_logits"` a sequence's cumulative log-probability is that of our
    engine with `normalize="codebook"`; "processed_logprobs" is `normalize="children"`. A request
    with `SamplingParams(extra_args={"sids": False})` is left alone, so that one server writes text
    as well.

    Args:
        vllm_config: The model is a folder of `store-engine export`.
        device: Where the logits are.
        is_pin_memory: Not used.

    Raises:
        InputError: The folder is none, or logprobs_mode is "raw_...": a beam search would then
            choose by logits from before this processor, and write what is no item.
    """

    def __init__(
        self, vllm_config: "VllmConfig", device: torch.device, is_pin_memory: bool
    ) -> None:
        mode = vllm_config.model_config.logprobs_mode
        if mode not in _PROCESSED:
            raise InputError(f"logprobs_mode must be {' or '.join(_PROCESSED)}, is {mode}")
        self._constraint = SidConstraint(vllm_config.model_config.model)
        self._num_levels = self._constraint.vocabulary.num_levels
        self._requests: dict[int, Tokens] = {}

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Refuses an option that is neither true nor false."""
        _is_wanted(sampling_params)

    def is_argmax_invariant(self) -> bool:
        """The best token of all is seldom a code that may follow."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Follows the requests as they come, go and change their place in the batch."""
        process_dict_updates(self._requests, batch_update, self._start)

    def apply(self, logits: Tensor) -> Tensor:
        """Constrains one step: (num_requests, vocab_size), all requests in one call of the core."""
        if not self._requests:
            return logits
        places = sorted(self._requests)
        ends = last_tokens([self._requests[place] for place in places], self._num_levels)
        if len(places) == len(logits):
            return self._constraint.logprobs(ends, logits)
        logits[places] = self._constraint.logprobs(ends, logits[places])
        return logits

    def _start(
        self, params: SamplingParams, prompt: list[int] | None, output: list[int]
    ) -> Tokens | None:
        if not _is_wanted(params):
            return None
        if prompt is None:
            raise ValueError("SIDs need a prompt of token ids, got embeddings")
        return list(prompt[-self._num_levels :]), output


def _is_wanted(params: SamplingParams) -> bool:
    """Whether a request is to be constrained.

    Raises:
        ValueError: The option is neither true nor false.
    """
    wanted = (params.extra_args or {}).get(OPTION, True)
    if not isinstance(wanted, int) or wanted not in (0, 1):  # HTTP makes integers of booleans
        raise ValueError(f"extra_args[{OPTION!r}] must be true or false, got {shown(wanted)}")
    return bool(wanted)
