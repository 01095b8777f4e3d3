import pytest
import torch

from store_engine.kernels.swiglu import swiglu, swiglu_ref
from store_engine.model import layer_ops
from store_engine.testing import ATOL

SHAPES = [(1, 1), (3, 64), (2, 63), (2, 1100), (0, 8), (3, 0)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_matches_ref(shape, dtype, backend, device):
    num_rows, size = shape
    gate_up = 3 * torch.randn(num_rows, 2 * size, device=device)
    gate_up = gate_up.to(dtype)
    got = swiglu(gate_up, backend=backend)
    assert (got.shape, got.dtype) == (shape, dtype)
    torch.testing.assert_close(got, swiglu_ref(gate_up), atol=ATOL[dtype], rtol=1e-3)


def test_ref_is_the_models():
    gate_up = torch.randn(5, 66)
    torch.testing.assert_close(swiglu_ref(gate_up), layer_ops.swiglu(gate_up))


@pytest.mark.parametrize("gate_up", [torch.zeros(4), torch.zeros(2, 5)], ids=["1-D", "odd"])
def test_rejects(gate_up):
    with pytest.raises(ValueError, match="gate_up must be"):
        swiglu(gate_up)
