"""One provider of the training benchmark, measured in a process of its own."""

import os
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from benchmarks.measuring.memory import ExtraPeak
from benchmarks.training.engines import engine_of
from benchmarks.training.models import (
    PackedStoreModel,
    PaddedLlama,
    build_model,
    check_losses,
    packed_batch,
    padded_batch,
)
from benchmarks.training.task import MODELS, Task, draw_documents, split_steps, vocabulary
from store_engine.data.packing import Document, pack
from store_engine.model.attention import PackedSequences
from store_engine.model.targets import Targets
from store_engine.training.throughput import head_columns, peak_flops, training_flops


class Measured(NamedTuple):
    """What a process reports."""

    durations: list[float]  # seconds of each pass over the histories
    extra_peak_mib: float
    num_tokens: int  # of a pass
    num_positions: int  # of a pass, padding included
    flops: float  # useful ones of a pass
    peak_flops: float  # bf16 products of the device, per second


def see_one_gpu(device: str) -> str:
    """Hides all GPUs but one from this process: DeepSpeed takes the first that it sees.

    Args:
        device: "cpu", "cuda" or "cuda:N", the number of a GPU that is visible.

    Returns:
        The device's name from now on.
    """
    place = torch.device(device)
    if place.index is None:
        return device
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    os.environ["CUDA_VISIBLE_DEVICES"] = visible[place.index] if visible else str(place.index)
    return place.type


def measure(task: Task) -> Measured:
    """Trains in this process, which has used no GPU yet."""
    task = replace(task, device=see_one_gpu(task.device))
    torch.set_num_threads(task.threads)
    if task.provider == "ours" and not task.is_alone:  # once for the case
        check_losses(task)
    documents = draw_documents(task)
    steps = split_steps(task, documents)
    module: nn.Module = PackedStoreModel(build_model(task))
    make_batch: Callable[[list[Document], str], tuple[Any, ...]] = packed_batch
    if task.provider != "ours":
        module, make_batch = PaddedLlama(build_model(task)).to(task.device), padded_batch
    with engine_of(task, module) as engine:

        def step(documents: list[Document]) -> None:
            loss = engine(*make_batch(documents, task.device))
            engine.backward(loss)
            engine.step()
            if not np.isfinite(loss.item()):  # waits for the device
                raise FloatingPointError(f"loss {loss.item()}")

        step(documents[:1])  # makes the optimiser's state
        memory = ExtraPeak(task.device)
        step(steps[0])  # warms up
        durations = []
        for _ in range(task.passes):
            began = time.perf_counter()
            for part in steps:
                step(part)
            durations.append(time.perf_counter() - began)
        return Measured(
            durations,
            memory.mib(),
            sum(len(d.tokens) for d in documents),
            sum(len(part) * max(len(d.tokens) for d in part) for part in steps),
            useful_flops(task, documents),
            peak_flops(torch.bfloat16, torch.device(task.device)),
        )


def useful_flops(task: Task, documents: list[Document]) -> float:
    """FLOPs of one pass that no implementation of our loss can do without."""
    batch = pack(documents)
    codes = vocabulary()
    columns = head_columns(Targets.of(batch.targets, codes), codes)
    return training_flops(MODELS[task.model], PackedSequences(batch.cu_seqlens), columns)
