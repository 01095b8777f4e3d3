"""Losses and softmaxes of training as cases of kernels.py: over slices of codes, over text."""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.ops.liger import liger_loss
from benchmarks.ops.workload import Case, Work, op_work, short
from store_engine.kernels.linear_cross_entropy import (
    linear_cross_entropy,
    linear_cross_entropy_ref,
)
from store_engine.kernels.masked_softmax import masked_softmax, masked_softmax_ref
from store_engine.testing import assert_as_accurate


def loss_case(
    num_rows: int, hidden_size: int, vocab_size: int, length: int, dtype: torch.dtype, device: str
) -> Case:
    """linear_cross_entropy where each row sees one of vocab_size / length slices."""

    def make() -> Work:
        hidden = torch.randn(num_rows, hidden_size, device=device).to(dtype)
        weight = (0.05 * torch.randn(vocab_size, hidden_size, device=device)).to(dtype)
        targets = torch.randint(0, vocab_size, (num_rows,), device=device)
        start = targets // length * length
        sizes = torch.full_like(start, length)

        def full(hidden: Tensor, weight: Tensor) -> Tensor:
            return F.cross_entropy(F.linear(hidden, weight), targets)

        def check() -> None:
            few = slice(0, 512)  # the reference needs several full logits
            rows: dict[str, Any] = {
                "targets": targets[few],
                "start": start[few],
                "length": sizes[few],
            }
            assert_as_accurate(
                partial(linear_cross_entropy, **rows),
                partial(linear_cross_entropy_ref, **rows),
                [hidden[few], weight],
                torch.ones((), device=device),
            )

        ours = partial(linear_cross_entropy, targets=targets, start=start, length=sizes)
        once = hidden.numel() + weight.numel()
        return Work(
            [hidden, weight],
            ours,
            full,
            check,
            flops=6.0 * num_rows * hidden_size * length,
            num_bytes=3.0 * once * hidden.element_size(),  # read twice, gradients written
            dout=torch.ones((), device=device),
            liger=liger_loss(targets),
        )

    shape = f"T={num_rows},d={hidden_size},V={vocab_size},length={length}"
    name = f"linear_cross_entropy,{shape},{short(dtype)}"
    return Case(name, dtype, make, is_slow=num_rows * vocab_size > 1 << 26)


def chunked_loss_case(
    rows: int, hidden_size: int, vocab_size: int, dtype: torch.dtype, device: str
) -> Case:
    """linear_cross_entropy of one slice for all rows: a text head's, in chunks."""

    def make() -> Work:
        hidden = torch.randn(rows, hidden_size, device=device).to(dtype)
        weight = (0.05 * torch.randn(vocab_size, hidden_size, device=device)).to(dtype)
        targets = torch.randint(0, vocab_size, (rows,), device=device)
        once = (hidden.numel() + weight.numel()) * hidden.element_size()
        return op_work(
            partial(linear_cross_entropy, targets=targets),
            [hidden, weight],
            num_bytes=3.0 * once,
            flops=6.0 * rows * hidden_size * vocab_size,
            dout=torch.ones((), device=device),
            liger=liger_loss(targets),
        )

    name = f"chunked_cross_entropy,T={rows},d={hidden_size},V={vocab_size},{short(dtype)}"
    return Case(name, dtype, make, is_slow=rows * vocab_size > 1 << 26)


def softmax_case(
    kind: str, num_rows: int, vocab_size: int, dtype: torch.dtype, device: str
) -> Case:
    """masked_softmax over an eighth of the vocabulary, against softmax of masked_fill."""

    def make() -> Work:
        logits = torch.randn(num_rows, vocab_size, device=device).to(dtype)
        start = torch.randint(0, 8, (num_rows,), device=device) * (vocab_size // 8)
        cols = torch.arange(vocab_size, device=device)
        is_allowed = (cols >= start[:, None]) & (cols < start[:, None] + vocab_size // 8)
        every: dict[str, Any] = {
            "slice": (vocab_size // 8, vocab_size // 8),
            "ranges": (start, torch.full_like(start, vocab_size // 8)),
        }
        allowed = every[kind]
        if kind == "slice":
            is_allowed = (cols >= vocab_size // 8) & (cols < vocab_size // 4)
        ours = partial(masked_softmax, allowed=allowed)
        ref = partial(masked_softmax_ref, allowed=allowed)
        dout = torch.randn_like(logits)

        def plain(logits: Tensor) -> Tensor:
            return logits.masked_fill(~is_allowed, -float("inf")).softmax(-1)

        def check() -> None:
            assert_as_accurate(ours, ref, [logits], dout.float())

        row_bytes = vocab_size * logits.element_size()
        moved = num_rows * row_bytes * (1 / 8 + 1 + 2 / 8 + 1)  # a range read, a row written; twice
        return Work([logits], ours, plain, check, flops=0.0, num_bytes=moved, dout=dout)

    name = f"masked_softmax,{kind},rows={num_rows},V={vocab_size},{short(dtype)}"
    return Case(name, dtype, make)
