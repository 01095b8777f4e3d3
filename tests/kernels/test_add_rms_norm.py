import pytest
import torch

from store_engine.kernels.add_rms_norm import add_rms_norm, add_rms_norm_ref
from store_engine.model.layer_ops import RMSNorm
from store_engine.testing import ATOL

BACKENDS = ["torch", "triton"]
SHAPES = [(1, 1), (4, 64), (5, 63), (3, 1000), (0, 8)]


def make(shape, dtype=torch.float32, device="cpu"):
    x, residual = torch.randn(2, *shape, dtype=dtype, device=device)
    return x, residual, torch.rand(shape[1], dtype=dtype, device=device)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("has_residual", [True, False])
@pytest.mark.parametrize("has_rows", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("backend", BACKENDS)
def test_matches_ref(shape, has_residual, has_rows, dtype, backend, device):
    x, residual, weight = make(shape, dtype, device)
    residual = residual if has_residual else None
    rows = torch.randint(-1, max(shape[0], 1), (7 * min(shape[0], 1),), device=device).int()
    rows = rows if has_rows else None
    wants = add_rms_norm_ref(x, residual, weight, 1e-5, rows)
    gots = add_rms_norm(x, residual, weight, 1e-5, rows, backend=backend)
    assert torch.equal(gots[1], wants[1])
    assert gots[0].dtype == dtype
    torch.testing.assert_close(gots[0], wants[0], atol=ATOL[dtype], rtol=0)


def test_ref_is_the_models_norm_of_the_sum():
    x, residual, weight = make((7, 33))
    norm = RMSNorm(33, eps=1e-6)
    norm.weight.data.copy_(weight)
    normed, total = add_rms_norm_ref(x, residual, weight, 1e-6)
    assert torch.equal(total, x + residual)
    torch.testing.assert_close(normed, norm(x + residual))


def test_rows_are_an_embedding():
    table, _, weight = make((9, 12))
    rows = torch.tensor([3, 8, -1, 3], dtype=torch.int32)
    normed, embedded = add_rms_norm_ref(table, None, weight, 1e-5, rows)
    assert torch.equal(embedded, table[[3, 8, 0, 3]])
    assert torch.equal(normed, add_rms_norm_ref(embedded, None, weight, 1e-5)[0])


@pytest.mark.parametrize("backend", BACKENDS)
def test_inputs_stay(backend, device):
    x, residual, weight = make((3, 20), device=device)
    before = x.clone(), residual.clone()
    add_rms_norm(x, residual, weight, 1e-5, backend=backend)
    assert torch.equal(x, before[0])
    assert torch.equal(residual, before[1])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": torch.zeros(3)}, ValueError, r"x must be \(num_inputs, hidden_size\), got \(3,\)"),
        ({"weight": torch.zeros(5)}, ValueError, r"weight must be \(4,\), got \(5,\)"),
        ({"residual": torch.zeros(2, 5)}, ValueError, r"residual must be \(2, 4\), got \(2, 5\)"),
        ({"residual": torch.zeros(2, 4).half()}, TypeError, "residual must be torch.float32"),
        ({"rows": torch.zeros(3).long()}, TypeError, "rows must be torch.int32"),
        ({"rows": torch.zeros(3, 1).int()}, ValueError, r"rows must be \(3,\), got \(3, 1\)"),
    ],
    ids=["x", "weight", "shape", "dtype", "rows", "rows' shape"],
)
def test_rejects(change, error, message):
    args = {"x": torch.zeros(2, 4), "residual": torch.zeros(2, 4), "weight": torch.ones(4)}
    with pytest.raises(error, match=message):
        add_rms_norm(**(args | change), eps=1e-5)
