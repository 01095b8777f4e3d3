"""Only where vLLM is installed: `make vllm` runs this in an environment of its own."""

import importlib.util

import pytest

from benchmarks.decoding.cases import Case, CatalogShape
from benchmarks.decoding.check import check
from benchmarks.decoding.engines import BOS, random_engine, random_histories
from benchmarks.decoding.searches import make_searches

if importlib.util.find_spec("vllm") is None:
    pytest.skip("vLLM is not installed: `make vllm` runs this", allow_module_level=True)
from benchmarks.peers.vllm_beam import VllmBeamSearch

CASE = Case("tiny", "float32", 3, 4, (0, 9), CatalogShape(1000, 4, 16))


def test_it_finds_what_the_engine_finds():
    engine = random_engine(CASE, "cpu", "float32")
    histories = random_histories(engine, CASE)
    search = VllmBeamSearch(engine, BOS)
    searches = make_searches(engine, 4, is_timed=False) | {"vllm": search, "again": search}
    check(CASE, histories, searches, searches)
