"""A custom logit processor for SGLang: an exported model writes SIDs of the catalogue alone.

    python -m sglang.launch_server --model-path exported --enable-custom-logit-processor

    requests.post(url + "/generate", json={
        "input_ids": prompt,
        "sampling_params": {"n": 20, "max_new_tokens": num_levels, "temperature": 1.0,
                            "ignore_eos": True, "custom_params": {"exported": "exported"}},
        "custom_logit_processor": SidLogitProcessor.to_str()})

The server has store_engine installed, and loads the processor by its name. docs/vllm.md has prompts
and the way back to item ids.
"""

import functools
from typing import Any

from sglang.srt.sampling.custom_logit_processor import CustomLogitProcessor
from torch import Tensor

from store_engine.integrations.exported_folder import last_tokens
from store_engine.integrations.sid_constraint import SidConstraint

FOLDER = "exported"  # in custom_params: a folder of `store-engine export` on the server


class SidLogitProcessor(CustomLogitProcessor):
    """Leaves only codes that lead to an item, with their log-probability within the level.

    A request says by `custom_params={"exported": FOLDER}` whose items they are; one that says
    nothing is left alone. Requests of a batch take one call of the core for each folder.
    """

    def __call__(
        self, logits: Tensor, custom_param_list: list[dict[str, Any]] | None = None
    ) -> Tensor:
        """Constrains one step.

        Args:
            logits: (num_requests, vocab_size).
            custom_param_list: For each request its parameters; SGLang adds the request itself.

        Returns:
            (num_requests, vocab_size), -inf wherever no item can follow.

        Raises:
            InputError: A folder is none of `store-engine export`.
        """
        parameters = custom_param_list or []
        rows_of: dict[str, list[int]] = {}
        for row, params in enumerate(parameters):
            if params is not None and FOLDER in params:
                rows_of.setdefault(str(params[FOLDER]), []).append(row)
        for folder, rows in rows_of.items():
            constraint = _constraint(folder)
            requests = [parameters[row]["__req__"] for row in rows]
            sequences = [(one.origin_input_ids, one.output_ids) for one in requests]
            ends = last_tokens(sequences, constraint.vocabulary.num_levels)
            logits[rows] = constraint.logprobs(ends, logits[rows])
        return logits


@functools.lru_cache(maxsize=8)
def _constraint(folder: str) -> SidConstraint:
    return SidConstraint(folder)
