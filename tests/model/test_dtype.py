import numpy as np
import pytest
import torch

from store_engine.errors import InputError
from store_engine.model.dtype import choose_device, choose_dtype, computes_in_bfloat16


@pytest.fixture(params=[True, False], ids=["bfloat16", "float32-only"])
def has_bfloat16(request, monkeypatch):
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: request.param)
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: False)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda: request.param)
    return request.param


@pytest.mark.parametrize("device", ["cpu", torch.device("cpu"), "cuda", "cuda:1"])
def test_auto_takes_bfloat16_where_the_device_computes_in_it(device, has_bfloat16):
    assert computes_in_bfloat16(device) == has_bfloat16
    want = torch.bfloat16 if has_bfloat16 else torch.float32
    assert choose_dtype("auto", device) == want


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_name_is_taken_as_it_is(device, has_bfloat16):
    assert choose_dtype("float32", device) == torch.float32
    assert choose_dtype("bfloat16", device) == torch.bfloat16


@pytest.mark.parametrize(
    "name", ["float16", "bf16", "", 3, torch.float32, np.array(["auto"] * 2)], ids=range(6)
)
def test_other_names_are_refused(name):
    with pytest.raises(InputError, match="dtype must be auto, float32 or bfloat16, got"):
        choose_dtype(name, "cpu")


@pytest.mark.parametrize(
    "name", ["", "x", "meta", "mps", "cpu:0", "cuda:", "cuda:-1", None, 3, b"cpu"], ids=repr
)
def test_what_is_no_device(name):
    with pytest.raises(InputError, match="device must be cpu, cuda, cuda:N or auto, got"):
        choose_device(name)


def test_a_device_that_is_not_there():
    with pytest.raises(InputError, match="device cuda:999: this machine has no such device"):
        choose_device("cuda:999")


@pytest.mark.parametrize("name", ["cpu", torch.device("cpu")])
def test_the_cpu(name):
    assert choose_device(name) == torch.device("cpu")


def test_auto():
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
