"""Only where vLLM is installed: `make vllm` runs this in an environment of its own."""

import importlib.util
import os

import pytest

from benchmarks import decode

if importlib.util.find_spec("vllm") is None:
    pytest.skip("vLLM is not installed: `make vllm` runs this", allow_module_level=True)
os.environ["TORCHDYNAMO_DISABLE"] = "1"  # a sampler compiled for a minute would run for a second
from benchmarks.peers.vllm_beam import VllmBeamSearch

CASE = decode.Case("tiny", "float32", 3, 4, (0, 9), decode.CatalogShape(1000, 4, 16))


def test_it_finds_what_the_engine_finds():
    engine = decode.random_engine(CASE, "cpu", "float32")
    histories = decode.random_histories(engine, CASE)
    search = VllmBeamSearch(engine, decode.BOS)
    theirs = {"vllm": search, "again": search}
    decode.check(CASE, histories, decode.make_searches(engine, 4, is_timed=False) | theirs, theirs)
