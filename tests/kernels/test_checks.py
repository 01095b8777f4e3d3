import pytest
import torch

from store_engine.kernels._checks import check_tensor

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (torch.zeros(2, 4), ValueError, r"x must be \(2, 3\), got \(2, 4\)"),
        (torch.zeros(2, 3).double(), TypeError, "float32 or torch.float16, got torch.float64"),
        (torch.zeros(2, 3, device="meta"), ValueError, "x must be on cpu, got meta"),
        (torch.zeros(3, 2).T, ValueError, r"x must be contiguous, got strides \(1, 2\)"),
    ],
    ids=["shape", "dtype", "device", "strides"],
)
def test_says_what_does_not_fit(x, error, message):
    with pytest.raises(error, match=message):
        check_tensor("x", x, (2, 3), (torch.float32, torch.float16), CPU)


def test_takes_what_fits():
    check_tensor("x", torch.zeros(2, 3), (2, 3), (torch.float32,), CPU)
    check_tensor("x", torch.zeros(3, 2).T, (2, 3), (torch.float32,), CPU, is_contiguous=False)
