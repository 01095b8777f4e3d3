from functools import partial

import pytest
import torch

from store_engine.kernels.masked_softmax import masked_softmax, masked_softmax_ref
from store_engine.testing import assert_as_accurate

INF = float("inf")


def make_range(shape, device):
    """Ranges of every kind: whole rows, empty ones, ones reaching past the last column."""
    *rows, vocab_size = shape
    start = torch.randint(0, vocab_size, rows, device=device)
    length = torch.randint(0, vocab_size + 2, rows, device=device)
    return start, length


def make_one_range(shape, device):
    return shape[-1] // 3, shape[-1] // 2


def test_equals_torch_on_the_range_alone():
    logits = torch.randn(3, 4, 10)
    probs = masked_softmax(logits, (2, 5))
    torch.testing.assert_close(probs[..., 2:7], logits[..., 2:7].softmax(-1))
    assert probs[..., :2].eq(0).all()
    assert probs[..., 7:].eq(0).all()


def test_equals_torch_where_all_else_is_minus_infinity():
    logits = torch.randn(5, 100)
    start, length = torch.tensor([0, 31, 32, 63, 99]), torch.tensor([100, 2, 32, 33, 1])
    cols = torch.arange(100)
    is_allowed = (cols >= start[:, None]) & (cols < (start + length)[:, None])
    got = masked_softmax(logits, (start, length))
    torch.testing.assert_close(got, logits.masked_fill(~is_allowed, -INF).softmax(-1))
    torch.testing.assert_close(got.sum(-1), torch.ones(5))


@pytest.mark.parametrize("shape", [(1, 1), (2, 64), (3, 5, 63), (7, 1000), (2, 5000), (0, 8)])
@pytest.mark.parametrize("make", [make_range, make_one_range], ids=["ranges", "one_range"])
@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("backend", ["torch", "triton"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_matches_ref(shape, make, log, backend, dtype, device):
    if backend == "triton" and dtype is torch.bfloat16 and device == "cpu":
        pytest.skip("the Triton interpreter truncates to bfloat16 instead of rounding")
    allowed = make(shape, device)
    options = {"allowed": allowed, "log": log}
    logits = 3 * torch.randn(shape, dtype=dtype, device=device)
    op = partial(masked_softmax, **options, backend=backend)
    ref = partial(masked_softmax_ref, **options)
    assert_as_accurate(op, ref, [logits], torch.randn(shape, device=device))


@pytest.mark.parametrize("backend", ["torch", "triton"])
@pytest.mark.parametrize("log", [False, True])
def test_rows_with_nothing_to_choose_are_never_nan(backend, log, device):
    logits = torch.tensor([[1.0, 2.0, 3.0], [-INF] * 3, [float("nan"), 0.0, INF]], device=device)
    logits.requires_grad_()
    allowed = torch.tensor([0, 0, 1], device=device), torch.tensor([0, 3, 1], device=device)
    out = masked_softmax(logits, allowed, log=log, backend=backend)
    nothing = -INF if log else 0.0
    one = 0.0 if log else 1.0
    assert out.tolist() == [[nothing] * 3, [nothing] * 3, [nothing, one, nothing]]
    (grad,) = torch.autograd.grad(out, logits, torch.ones_like(out))
    assert grad.isfinite().all()
    assert grad[0].eq(0).all()


@pytest.mark.parametrize(
    ("allowed", "error", "message"),
    [
        ((torch.zeros(3).int(), 4), ValueError, r"start must be \(2,\), got \(3,\)"),
        ((0, torch.zeros(2)), TypeError, "length must hold integers"),
    ],
    ids=["start_shape", "length_dtype"],
)
def test_rejects(allowed, error, message):
    with pytest.raises(error, match=message):
        masked_softmax(torch.randn(2, 8), allowed)
