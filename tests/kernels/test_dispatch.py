from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from store_engine.kernels import _dispatch
from store_engine.kernels._dispatch import choose_backend, device_guard

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 1)


@pytest.fixture
def capability(monkeypatch):
    """Pretends that every CUDA device has a compute capability."""
    _dispatch._choose_for_gpu.cache_clear()
    monkeypatch.setattr("torch.version.hip", None)
    monkeypatch.setattr(_dispatch, "_INTERPRET", False)

    def pretend(major, minor):
        monkeypatch.setattr("torch.cuda.get_device_capability", lambda _: (major, minor))

    yield pretend
    _dispatch._choose_for_gpu.cache_clear()


@pytest.mark.parametrize(("on_cpu"), ["cpp", "torch"])
def test_auto_on_a_cpu(on_cpu, capsys):
    assert choose_backend("auto", CPU, on_cpu) == on_cpu
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("on_cpu", ["cpp", "torch"])
def test_auto_takes_triton_where_it_can_run_and_says_so_once(on_cpu, capability, capsys):
    capability(7, 0)
    assert [choose_backend("auto", CUDA, on_cpu) for _ in range(3)] == ["triton"] * 3
    assert capsys.readouterr() == ("", "kernels: triton on cuda:1\n")


def test_auto_on_a_gpu_too_old_for_triton(capability, capsys):
    capability(6, 1)
    assert choose_backend("auto", CUDA, "cpp") == choose_backend("auto", CUDA) == "torch"
    said = "kernels: torch on cuda:1 (Triton needs compute capability 7.0 or newer)\n"
    assert capsys.readouterr() == ("", said)
    with pytest.raises(RuntimeError, match="needs compute capability 7"):
        choose_backend("triton", CUDA)


def test_auto_on_other_devices_takes_pytorch(capability):
    assert choose_backend("auto", torch.device("meta"), "cpp") == "torch"


@pytest.mark.parametrize("device", [CPU, torch.device("meta")])
def test_triton_needs_a_gpu_or_the_interpreter(device, monkeypatch):
    monkeypatch.setattr(_dispatch, "_INTERPRET", False)
    with pytest.raises(RuntimeError, match=f"needs a CUDA tensor, got one on {device}"):
        choose_backend("triton", device)


@pytest.mark.parametrize(
    ("backend", "on_cpu", "message"),
    [
        ("cuda", "cpp", "backend must be 'auto', 'cpp', 'torch' or 'triton', got 'cuda'"),
        ("cpp", "torch", "backend must be 'auto', 'torch' or 'triton', got 'cpp'"),
        (None, "torch", "got None"),
    ],
)
def test_unknown_names(backend, on_cpu, message):
    with pytest.raises(ValueError, match=message):
        choose_backend(backend, CPU, on_cpu)


def test_the_guard_makes_the_gpu_of_a_tensor_current(monkeypatch):
    monkeypatch.setattr("torch.cuda.device", lambda device: nullcontext(device))
    with device_guard(SimpleNamespace(device=CUDA)) as current:
        assert current == CUDA
    with device_guard(torch.zeros(1)) as current:
        assert current is None
