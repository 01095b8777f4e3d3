"""Other people's searches of an engine's catalogue: those that are installed and can do it."""

import importlib.util
import sys
from collections.abc import Callable

from store_engine.decoding.engine import Engine
from store_engine.evaluation.plain_beam import Result

Search = Callable[[list[list[int]], int], Result]  # of histories (catalogue rows) and beam width


def peer_searches(engine: Engine, bos: int, *, can_start: bool = True) -> dict[str, Search]:
    """Makes each peer's search, or says on stderr why there is none.

    Args:
        engine: Gives the model and the catalogue.
        bos: Token that every history begins with.
        can_start: Also peers that are engines themselves, which take a minute to start.
    """
    found: dict[str, Search] = {}
    for name, make in (PEERS | ENGINES if can_start else PEERS).items():
        if reason := why_not(name, engine):
            print(f"no provider {name}: {reason}", file=sys.stderr)
        else:
            found[name] = make(engine, bos)
    return found


def why_not(name: str, engine: Engine) -> str:
    """The reason why a peer does not search this catalogue; empty if there is none."""
    if importlib.util.find_spec(name) is None:
        return "it is not installed"
    if not engine.model.is_plain:
        return "item rows or heads stand beside the LLM"
    if engine.config.normalize != "codebook":
        return f"log-probabilities are normalised over {engine.config.normalize}"
    if engine.trie.num_levels > 4:
        return "a million items of eight codes as Python objects would not fit"
    return ""


def _transformers(engine: Engine, bos: int) -> Search:
    from benchmarks.transformers_beam import TransformersBeamSearch

    return TransformersBeamSearch(engine, bos)


def _vllm(engine: Engine, bos: int) -> Search:
    from benchmarks.peers.vllm_beam import VllmBeamSearch

    return VllmBeamSearch(engine, bos)


PEERS = {"transformers": _transformers}
ENGINES = {"vllm": _vllm}
