"""The providers of the decoding benchmark: searches of the same catalogue with the same weights."""

from functools import partial
from typing import get_args

import torch

from benchmarks.decoding.engines import BOS
from benchmarks.peers.searches import Search, peer_searches
from store_engine.decoding.backends import BackendName
from store_engine.decoding.engine import Engine
from store_engine.evaluation.plain_beam import PlainBeamSearch, Result


def recommend(
    engine: Engine, backend: BackendName, histories: list[list[int]], beam: int
) -> Result:
    """The engine's search of the model alone: `beam` items."""
    return engine.recommend_rows(
        histories, beam, beam_width=beam, exclude_history=False, backend=backend, evidence=False
    )


def other_backends(device: torch.device) -> list[BackendName]:
    """The backends that run on the device, but for the one that "auto" is there."""
    is_cuda = device.type == "cuda"
    names: tuple[BackendName, ...] = get_args(BackendName)
    left_out = ("auto",) if is_cuda else ("auto", "cpp", "triton", "graph")
    return [backend for backend in names if backend not in left_out]


def make_searches(engine: Engine, beam: int, *, is_timed: bool = True) -> dict[str, Search]:
    """Each search as a function of histories and that beam width; all return `beam` items.

    What is not to be timed need not be all: engines of others are left out.
    """
    searches: dict[str, Search] = {"ours": partial(recommend, engine, "auto")}
    for backend in other_backends(engine.device):
        searches[f"ours_{backend}"] = partial(recommend, engine, backend)
    searches["torch_fallback"] = PlainBeamSearch(engine, BOS)
    return searches | peer_searches(engine, BOS, beam, can_start=is_timed)
