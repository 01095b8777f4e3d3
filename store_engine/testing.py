"""How an op is compared with its reference, in tests and before every benchmark."""

from collections.abc import Callable

import torch
from torch import Tensor

Op = Callable[..., Tensor]

# error allowed on top of twice that of the reference in the same dtype, for results up to 1
ATOL = {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 1e-2}


def assert_as_accurate(op: Op, ref: Op, inputs: list[Tensor], dout: Tensor) -> None:
    """Checks that `op` errs at most twice as much as `ref` does in the same dtype.

    Both are measured against `ref` in float32, for the output and for every gradient,
    so one bound serves all shapes and dtypes; it grows with the largest entry above 1. Infinite
    entries must be the same ones, and a NaN is an error wherever it stands.
    Source: the tests of FlashAttention.

    Args:
        op: The op under test.
        ref: Its reference.
        inputs: Arguments of both, all differentiable and of one dtype.
        dout: Gradient of the output, float32.

    Raises:
        AssertionError: Names the output or the gradient that is too far off, and by how much.
    """
    truth = _run(ref, [x.float() for x in inputs], dout)
    base = _run(ref, inputs, dout)
    ours = _run(op, inputs, dout)
    for name, want in truth.items():
        largest = _max_error(want, torch.zeros_like(want).where(want.isfinite(), want))
        allowed = 2 * _max_error(base[name], want) + ATOL[inputs[0].dtype] * max(1.0, largest)
        error = _max_error(ours[name], want)
        # not `error > allowed`: a NaN must fail
        assert error <= allowed, f"{name}: error {error:.2e}, allowed {allowed:.2e}"


def _run(op: Op, inputs: list[Tensor], dout: Tensor) -> dict[str, Tensor]:
    """The output of `op` and its gradients, in float32."""
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    out = op(*leaves)
    grads = torch.autograd.grad(out, leaves, dout.to(out.dtype))
    return {"out": out.detach().float()} | {f"grad {i}": g.float() for i, g in enumerate(grads)}


def _max_error(x: Tensor, want: Tensor) -> float:
    """Largest absolute difference; equal infinities differ by nothing, an empty tensor too."""
    if x.shape != want.shape:
        raise AssertionError(f"shape {tuple(x.shape)}, expected {tuple(want.shape)}")
    error = torch.where(x == want, 0.0, (x - want).abs())
    return error.max().item() if error.numel() else 0.0
