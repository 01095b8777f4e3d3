"""Beam search of FlashRec (github.com/sohu-mptc/FlashRec, 0.1.2) over the model that we export.

It serves Qwen3 models on a GPU, in bfloat16 as we ask it to. Not run on a GPU yet: this was written
against its documented API. On a CPU 0.1.2 does not start by itself; with its pinned memory and its
rotary embedding replaced it found the engine's items, in the engine's order.

Two things of its search are not the engine's. The best 2 * beam_width codes of a level are taken
before the catalogue is asked, so that items are lost where a level has more codes: it is left out
there. And the first level is normalised over the codes of all levels, which lowers the scores of
all items of a request by the same number: they are compared but for that (`SHIFTED`).
"""

import json
import tempfile
from pathlib import Path

from benchmarks.peers.catalog_tokens import CatalogTokens
from benchmarks.peers.export_engine import export_engine
from store_engine.decoding.engine import Engine
from store_engine.evaluation.plain_beam import Result

BOUNDARIES = ("<|sid_begin|>", "<|sid_end|>")  # put around every SID that it returns


class FlashrecBeamSearch:
    """`BeamRecEngine.generate_many` on the weights that our engine exports, no prefix cache.

    Args:
        engine: Gives the model, a Qwen3, and the catalogue.
        bos: Token that every history begins with.
        beam: Beam width, for which its CUDA graphs are captured.
    """

    def __init__(self, engine: Engine, bos: int, beam: int) -> None:
        from flashrec import BeamRecConfig, BeamRecEngine

        self._catalog = CatalogTokens(engine, bos)
        codes = engine.model.vocabulary
        first, sizes = codes.level_offsets[0], ",".join(map(str, codes.codebook_sizes))
        with tempfile.TemporaryDirectory(prefix="flashrec-") as name:
            folder = Path(name)
            export_engine(engine, folder, bos, BOUNDARIES)
            _say_theta(folder / "config.json")
            catalog = folder / "sid2vid.json"
            catalog.write_text(
                json.dumps({",".join(map(str, s)): [] for s in engine.sids.tolist()})
            )
            self._engine = BeamRecEngine(
                BeamRecConfig(
                    name,
                    quantization=None,
                    gpu_id=engine.device.index or 0,
                    mem_fraction_static=0.3,
                    sid=f"{first}:{codes.item_offset - 1}/{sizes}",
                    sid_vocab_file=str(catalog),
                    beam_width=beam,
                    max_tokens=self._catalog.num_levels,
                    enable_radix=False,
                    enable_warmup=False,
                )
            )

    def __call__(self, histories: list[list[int]], beam: int) -> Result:
        """Recommends `beam` items per history; scores as said above."""
        from flashrec.core import BeamRequest

        # made here, not by make_request, which would end every prompt with a boundary
        prompts, num_levels = self._catalog.prompts(histories), self._catalog.num_levels
        requests = [BeamRequest(prompt, beam, num_levels) for prompt in prompts]
        found = [result.sequences for result in self._engine.generate_many(requests)]
        paths = [[tuple(one.tokens[1:-1]) for one in beams] for beams in found]
        scores = [[one.cum_logprob for one in beams] for beams in found]
        return self._catalog.items(paths, scores, beam)


def _say_theta(path: Path) -> None:
    """Puts RoPE's base where transformers before 5 had it, and FlashRec reads it."""
    config = json.loads(path.read_text())
    config.setdefault("rope_theta", config.get("rope_parameters", {}).get("rope_theta"))
    path.write_text(json.dumps(config))
