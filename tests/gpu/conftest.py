"""What runs through many rooms, on a pretended device: engines, trainings, runs, benchmarks.

What one module does on a device is tested where its other tests are: the search by graphs in
tests/decoding/graphs/, what it reads in tests/catalog/resident/, kernels in tests/kernels/.
"""

import pytest
from pretended_device import DEVICE, pretended_device

from store_engine.decoding import engine
from store_engine.evaluation import evaluate_run, scoring
from store_engine.kernels import _dispatch
from store_engine.model import dtype


@pytest.fixture
def named_gpu(monkeypatch):
    """The pretended device, which every part of the package finds by whatever name it asks for.

    Its backend is PyTorch's: Triton's interpreter would take minutes for an evaluation.
    """
    monkeypatch.setattr(_dispatch, "_INTERPRET", False)
    _dispatch._choose_for_gpu.cache_clear()
    with pretended_device() as gpu:
        for module in (engine, evaluate_run, scoring, dtype):
            monkeypatch.setattr(module, "choose_device", lambda device: DEVICE)
        yield gpu
    _dispatch._choose_for_gpu.cache_clear()
