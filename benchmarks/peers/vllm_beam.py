"""Beam search of vLLM over the model that our engine exports, with our logits processor.

vLLM's beam search stands above its engine: each level is a request per beam for one token. The
prompts of a request's beams are the same, so its prefix cache is on, in small blocks; it is emptied
before every search, so that nothing of an earlier repetition is known to the next.
"""

import os
import tempfile
from pathlib import Path

import torch

from benchmarks.peers.catalog_tokens import CatalogTokens
from benchmarks.peers.export_engine import export_engine
from store_engine.decoding.engine import Engine
from store_engine.evaluation.plain_beam import Result

PROCESSOR = "store_engine.integrations.vllm:SidLogitsProcessor"
BLOCK_SIZE = 32  # tokens; the fewest that its attention on a CPU takes
ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # in this process, as all others
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}


class VllmBeamSearch:
    """`LLM.beam_search` on the weights that our engine exports.

    Args:
        engine: Gives the model and the catalogue.
        bos: Token that every history begins with.
    """

    def __init__(self, engine: Engine, bos: int) -> None:
        os.environ |= ENVIRONMENT  # which vLLM reads as it is imported
        os.environ["OMP_NUM_THREADS"] = str(torch.get_num_threads())
        from vllm import LLM

        self._catalog = CatalogTokens(engine, bos)
        with tempfile.TemporaryDirectory(prefix="vllm-") as folder:
            export_engine(engine, Path(folder), bos)
            self._llm = LLM(
                folder,
                logits_processors=[PROCESSOR],
                logprobs_mode="processed_logits",
                max_logprobs=-1,  # its beam search asks for twice the width
                dtype=str(engine.model.transformer.norm.weight.dtype).removeprefix("torch."),
                block_size=BLOCK_SIZE,
                max_num_seqs=1024,
                gpu_memory_utilization=0.3,
                disable_log_stats=True,
            )

    def __call__(self, histories: list[list[int]], beam: int) -> Result:
        """Recommends `beam` items per history."""
        from vllm.sampling_params import BeamSearchParams

        self._llm.reset_prefix_cache()
        num_levels = self._catalog.num_levels
        prompts = [{"prompt_token_ids": prompt} for prompt in self._catalog.prompts(histories)]
        params = BeamSearchParams(beam_width=beam, max_tokens=num_levels, ignore_eos=True)
        found = [output.sequences for output in self._llm.beam_search(prompts, params)]
        paths = [[tuple(one.tokens[-num_levels:]) for one in beams] for beams in found]
        scores = [[one.cum_logprob for one in beams] for beams in found]
        return self._catalog.items(paths, scores, beam)
