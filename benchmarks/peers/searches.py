"""Other people's searches of an engine's catalogue: those that are installed and can do it."""

import importlib.util
import sys
from collections.abc import Callable

import torch

from store_engine.decoding.engine import Engine
from store_engine.evaluation.plain_beam import Result

Search = Callable[[list[list[int]], int], Result]  # of histories (catalogue rows) and beam width

SHIFTED = ("flashrec",)  # whose scores are the log-probabilities less a number of each request


def peer_searches(
    engine: Engine, bos: int, beam: int, *, can_start: bool = True
) -> dict[str, Search]:
    """Makes each peer's search, or says on stderr why there is none.

    Args:
        engine: Gives the model and the catalogue.
        bos: Token that every history begins with.
        beam: Beam width of the searches.
        can_start: Also peers that are engines themselves, which take a minute to start.
    """
    found: dict[str, Search] = {}
    for name, make in (PEERS | ENGINES if can_start else PEERS).items():
        if reason := why_not(name, engine, beam):
            print(f"no provider {name}: {reason}", file=sys.stderr)
        else:
            found[name] = make(engine, bos, beam)
    return found


def why_not(name: str, engine: Engine, beam: int) -> str:
    """The reason why a peer does not search this catalogue; empty if there is none."""
    if importlib.util.find_spec(name) is None:
        return "it is not installed"
    if not engine.model.is_plain:
        return "item rows or heads stand beside the LLM"
    if engine.config.normalize != "codebook":
        return f"log-probabilities are normalised over {engine.config.normalize}"
    if engine.trie.num_levels > 4:
        return "a million items of eight codes as Python objects would not fit"
    return _why_not_flashrec(engine, beam) if name == "flashrec" else ""


def _why_not_flashrec(engine: Engine, beam: int) -> str:
    if engine.device.type != "cuda":
        return "it runs on a GPU alone"
    if not engine.model.config.qk_norm:
        return "it knows Qwen3 alone"
    if engine.model.code_head.weight.dtype is not torch.bfloat16:
        return "it computes in bfloat16"
    if 2 * beam < max(engine.trie.codebook_sizes):
        return f"beams of {beam} would lose items of {max(engine.trie.codebook_sizes)} codes"
    return ""


def _transformers(engine: Engine, bos: int, beam: int) -> Search:
    from benchmarks.peers.transformers_beam import TransformersBeamSearch

    return TransformersBeamSearch(engine, bos)


def _vllm(engine: Engine, bos: int, beam: int) -> Search:
    from benchmarks.peers.vllm_beam import VllmBeamSearch

    return VllmBeamSearch(engine, bos)


def _flashrec(engine: Engine, bos: int, beam: int) -> Search:
    from benchmarks.peers.flashrec_beam import FlashrecBeamSearch

    return FlashrecBeamSearch(engine, bos, beam)


PEERS = {"transformers": _transformers}
ENGINES = {"vllm": _vllm, "flashrec": _flashrec}
