from functools import partial

import pytest
import torch
import torch.nn.functional as F

from store_engine.kernels import _linear_cross_entropy_chunks as chunks
from store_engine.kernels import linear_cross_entropy as op_module
from store_engine.kernels.linear_cross_entropy import (
    linear_cross_entropy,
    linear_cross_entropy_ref,
)
from store_engine.kernels.triton import cross_entropy_rows as triton_chunks
from store_engine.kernels.triton import linear_cross_entropy as triton_path
from store_engine.testing import assert_as_accurate

BACKENDS = ["torch", "triton"]
# rows, hidden size, rows of the weight, lengths of the slices that tile the weight's front
SHAPES = [
    (1, 1, 1, [1]),
    (64, 16, 64, [16, 16, 32]),
    (63, 63, 1000, [700, 64, 63, 1]),
    (70, 33, 130, [130]),
    (0, 8, 4, [4]),
]


def make(num_rows, hidden_size, vocab_size, lengths, dtype=torch.float32, device="cpu"):
    """A batch of rows of mixed slices, unsorted, every fifth without a target."""
    hidden = torch.randn(num_rows, hidden_size, dtype=dtype, device=device)
    weight = torch.randn(vocab_size, hidden_size, dtype=dtype, device=device) / hidden_size**0.5
    lengths = torch.tensor(lengths, device=device)
    level = torch.randint(0, len(lengths), (num_rows,), device=device)
    start, length = (lengths.cumsum(0) - lengths)[level], lengths[level]
    targets = start + (torch.rand(num_rows, device=device) * length).long()
    targets[4::5] = -100
    return hidden, weight, targets, start, length


def make_options(targets, start, length, **options):
    return {"targets": targets, "start": start, "length": length, **options}


def test_ref_matches_torch():
    hidden, weight, targets, *_ = make(20, 8, 50, [50])
    logits = hidden @ weight.T
    for reduction in ("none", "sum", "mean"):
        options = {"reduction": reduction}
        want = F.cross_entropy(logits, targets, **options)
        got = linear_cross_entropy_ref(hidden, weight, targets, **options)
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("backend", BACKENDS)
def test_slice_equals_torch_on_the_slice_alone(backend, device):
    hidden, weight, targets, start, length = make(40, 16, 90, [60, 30], device=device)
    losses = linear_cross_entropy(
        hidden, weight, targets, start, length, reduction="none", backend=backend
    )
    for i in range(40):
        begin, end = int(start[i]), int(start[i] + length[i])
        target = targets[i] - begin if targets[i] >= 0 else targets[i]
        want = F.cross_entropy(weight[begin:end] @ hidden[i], target, reduction="sum")
        torch.testing.assert_close(losses[i], want)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"rows={s[0]},vocab={s[2]}")
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_matches_ref(shape, reduction, backend, device):
    hidden, weight, *rows = make(*shape, device=device)
    options = make_options(*rows, reduction=reduction)
    dout = torch.randn(shape[0] if reduction == "none" else (), device=device)
    op = partial(linear_cross_entropy, **options, backend=backend)
    ref = partial(linear_cross_entropy_ref, **options)
    assert_as_accurate(op, ref, [hidden, weight], dout)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_matches_ref_in_half_precision(backend, dtype, device):
    if backend == "triton" and dtype is torch.bfloat16 and device == "cpu":
        pytest.skip("the Triton interpreter truncates to bfloat16 instead of rounding")
    hidden, weight, *rows = make(63, 40, 200, [100, 63, 37], dtype, device)
    options = make_options(*rows, reduction="sum")
    op = partial(linear_cross_entropy, **options, backend=backend)
    ref = partial(linear_cross_entropy_ref, **options)
    assert_as_accurate(op, ref, [hidden, weight], torch.ones((), device=device))


@pytest.mark.parametrize("backend", BACKENDS)
def test_order_of_the_rows_changes_nothing(backend, device):
    """Text rows and the codes of several levels in one call, mixed or sorted by their slice."""
    hidden, weight, targets, start, length = make(90, 16, 300, [200, 64, 36], device=device)
    order = start.argsort(stable=True)

    def run(rows):
        inputs = [hidden[rows].requires_grad_(), weight.clone().requires_grad_()]
        slices = targets[rows], start[rows], length[rows]
        losses = linear_cross_entropy(*inputs, *slices, reduction="none", backend=backend)
        return losses, *torch.autograd.grad(losses.square().sum(), inputs)

    mixed, ordered = run(torch.arange(90, device=device)), run(order)
    torch.testing.assert_close(mixed[0][order], ordered[0])
    torch.testing.assert_close(mixed[1][order], ordered[1])
    torch.testing.assert_close(mixed[2], ordered[2])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("of_hidden", [True, False], ids=["hidden", "weight"])
def test_only_one_input_is_trained(of_hidden, backend, device, monkeypatch):
    hidden, weight, *rows = make(20, 8, 50, [20, 30], device=device)
    trained, alone = (hidden, weight) if of_hidden else (weight, hidden)
    op = partial(linear_cross_entropy, backend=backend)
    both = [hidden.clone().requires_grad_(), weight.clone().requires_grad_()]
    wants = torch.autograd.grad(op(*both, *rows), both)
    trained.requires_grad_()
    # the kernel of the other gradient is not even launched
    unused = "dweight" if of_hidden else "dhidden"
    monkeypatch.setattr(triton_path, f"_linear_cross_entropy_{unused}_kernel", None)
    (got,) = torch.autograd.grad(op(hidden, weight, *rows), trained)
    torch.testing.assert_close(got, wants[0 if of_hidden else 1])
    assert alone.grad is None


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_rows_launch_nothing_and_have_gradients_of_zero(backend, device, monkeypatch):
    """Every rank of a training must have a gradient for every weight."""
    for step in ("fwd", "dhidden", "dweight"):
        monkeypatch.setattr(triton_path, f"_linear_cross_entropy_{step}_kernel", None)
    hidden, weight, *rows = make(0, 8, 50, [50], device=device)
    weight.requires_grad_()
    losses = linear_cross_entropy(hidden, weight, *rows, reduction="none", backend=backend)
    assert losses.shape == (0,)
    losses.sum().backward()
    assert weight.grad.shape == weight.shape
    assert weight.grad.eq(0).all()
    weight.grad += 1  # a matrix of its own, not one zero seen many times
    assert weight.grad.eq(1).all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("length", [7, None])
def test_one_slice_for_all_rows(length, backend, device):
    hidden, weight, targets, *_ = make(30, 8, 20, [20], device=device)
    targets = torch.where(targets < 0, targets, targets.clamp(5, 11))
    options = make_options(targets, 5, length)
    op = partial(linear_cross_entropy, **options, backend=backend)
    ref = partial(linear_cross_entropy_ref, **options)
    assert_as_accurate(op, ref, [hidden, weight], torch.ones((), device=device))


SMALL_CHUNKS = {"num_logits": 1, "num_rows": 3, "gradient_rows": 7}


@pytest.mark.parametrize("reduction", ["sum", "none"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_chunks_change_nothing(reduction, dtype, monkeypatch):
    hidden, weight, *rows = make(50, 8, 40, [10, 30], dtype)
    monkeypatch.setattr(op_module, "TORCH", chunks.TORCH._replace(**SMALL_CHUNKS))
    monkeypatch.setattr(chunks, "_BLOCK_LOGITS", 20)
    options = make_options(*rows, reduction=reduction)
    op = partial(linear_cross_entropy, **options, backend="torch")
    ref = partial(linear_cross_entropy_ref, **options)
    assert_as_accurate(op, ref, [hidden, weight], torch.rand(50 if reduction == "none" else ()))


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_chunks_of_the_kernel_change_nothing(reduction, dtype, monkeypatch, device):
    """One slice for all rows, some of which have no target."""
    hidden, weight, targets, *_ = make(20, 8, 40, [40], dtype, device)
    small = triton_chunks.TRITON._replace(**SMALL_CHUNKS)
    monkeypatch.setattr(triton_chunks, "TRITON", small)
    monkeypatch.setattr(triton_path, "_linear_cross_entropy_fwd_kernel", None)  # not taken
    targets = torch.where(targets < 0, targets, targets.clamp(3, 32))
    options = make_options(targets, 3, 30, reduction=reduction)
    op = partial(linear_cross_entropy, **options, backend="triton")
    ref = partial(linear_cross_entropy_ref, **options)
    dout = torch.rand(20 if reduction == "none" else (), device=device)
    assert_as_accurate(op, ref, [hidden, weight], dout)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_row_without_a_target_may_be_anything(backend, device):
    hidden, weight, targets, *_ = make(10, 8, 40, [40], device=device)
    hidden[4] = float("nan")  # the fifth has no target
    hidden.requires_grad_()
    loss = linear_cross_entropy(hidden, weight.requires_grad_(), targets, backend=backend)
    grad = torch.autograd.grad(loss, hidden)[0]
    assert loss.isfinite()
    assert grad[4].eq(0).all()
    assert grad.isfinite().all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_second_backward_gives_the_same(backend, device):
    hidden, weight, *rows = make(20, 8, 50, [20, 30], device=device)
    weight.requires_grad_()
    loss = linear_cross_entropy(hidden, weight, *rows, backend=backend)
    (first,) = torch.autograd.grad(loss, weight, retain_graph=True)
    (second,) = torch.autograd.grad(3 * loss, weight)
    torch.testing.assert_close(second, 3 * first)


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_to_learn(backend, device):
    """All rows ignored: the loss and the gradients are 0, not NaN; slices are not looked at."""
    hidden = torch.randn(3, 4, device=device, requires_grad=True)
    weight = torch.randn(5, 4, device=device, requires_grad=True)
    targets, nowhere = torch.full((3,), -1, device=device), torch.full((3,), 99, device=device)
    loss = linear_cross_entropy(
        hidden, weight, targets, nowhere, nowhere, ignore_index=-1, backend=backend
    )
    grads = torch.autograd.grad(loss, [hidden, weight])
    assert loss == 0
    assert all(g.eq(0).all() for g in grads)


def test_autocast_casts_both():
    hidden, weight, *rows = make(20, 8, 50, [20, 30])
    weight.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = linear_cross_entropy(hidden.bfloat16(), weight, *rows)
    (grad,) = torch.autograd.grad(loss, weight)
    want = linear_cross_entropy(hidden.bfloat16(), weight.bfloat16(), *rows)
    assert loss.dtype == grad.dtype == torch.float32
    torch.testing.assert_close(loss, want)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"targets": torch.tensor([0, 7])}, ValueError, r"row 1: target 7 .* slice \[2, 6\)"),
        ({"length": torch.tensor([2, 9])}, ValueError, r"row 1: slice \[2, 11\) .* \[0, 8\)"),
        ({"start": -1}, ValueError, r"row 0: slice \[-1, 1\)"),
        ({"length": 0}, ValueError, "must not be empty"),
        ({"targets": torch.tensor([0])}, ValueError, r"targets must be \(2,\), got \(1,\)"),
        ({"targets": torch.tensor([0.0, 1.0])}, TypeError, "targets must be int64"),
        ({"start": torch.zeros(2)}, TypeError, "start must hold integers"),
        ({"weight": torch.zeros(8, 5)}, ValueError, r"got \(2, 3\) and \(8, 5\)"),
        ({"weight": torch.zeros(8, 3).half()}, TypeError, "float32 and torch.float16"),
        ({"reduction": "avg"}, ValueError, "got 'avg'"),
        ({"backend": "cuda"}, ValueError, "backend must be"),
    ],
    ids=lambda x: ",".join(x) if isinstance(x, dict) else "",
)
def test_rejects(change, error, message):
    options = {
        "hidden": torch.zeros(2, 3),
        "weight": torch.zeros(8, 3),
        "targets": torch.tensor([0, 3]),
        "start": torch.tensor([0, 2]),
        "length": torch.tensor([2, 4]),
    }
    with pytest.raises(error, match=message):
        linear_cross_entropy(**(options | change))
