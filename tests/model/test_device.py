import pytest
import torch

from store_engine.errors import InputError
from store_engine.model.device import usable_device


@pytest.mark.parametrize(
    "name", ["", "x", "meta", "mps", "cpu:0", "cuda:", "cuda:-1", None, 3, b"cpu"], ids=repr
)
def test_what_is_no_device(name):
    with pytest.raises(InputError, match="device must be cpu, cuda, cuda:N or auto, got"):
        usable_device(name)


def test_a_device_that_is_not_there():
    with pytest.raises(InputError, match="device cuda:999: this machine has no such device"):
        usable_device("cuda:999")


@pytest.mark.parametrize("name", ["cpu", torch.device("cpu")])
def test_the_cpu(name):
    assert usable_device(name) == torch.device("cpu")


def test_auto():
    assert usable_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
