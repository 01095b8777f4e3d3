"""How near training runs to what the machine can do: useful operations against the matmul peak."""

import functools
import time

import torch

from store_engine.config import ModelConfig
from store_engine.model.attention import PackedSequences
from store_engine.model.item_rows import ItemTokens
from store_engine.model.targets import Targets
from store_engine.model.unified_vocabulary import UnifiedVocabulary


def training_flops(model: ModelConfig, sequences: PackedSequences, head_columns: int) -> float:
    """Counts the floating-point operations that one forward and backward pass needs.

    Matrix products alone, each multiply-add as two; the backward costs twice the forward. What an
    implementation computes beyond that (padding, recomputation) does not count.

    Args:
        model: Sizes.
        sequences: The packed batch.
        head_columns: Sum, over all targets, of the size of the target's sub-vocabulary.
    """
    heads, kv_heads = model.num_heads * model.head_dim, model.num_kv_heads * model.head_dim
    attention_weights = model.hidden_size * (2 * heads + 2 * kv_heads)
    layer = attention_weights + 3 * model.hidden_size * model.intermediate_size
    products = 2 * layer * sequences.num_tokens + 4 * heads * sequences.num_pairs
    forward = model.num_layers * products
    return 3.0 * (forward + 2 * model.hidden_size * head_columns)


def head_columns(
    targets: Targets, vocabulary: UnifiedVocabulary, items: ItemTokens | None = None
) -> int:
    """Sums, over all targets, the size of the target's own sub-vocabulary.

    Args:
        targets: On the CPU.
        vocabulary: Text tokens, codes and items.
        items: The items that are tokens themselves.
    """
    columns = len(targets.text.ids) * vocabulary.text_size + int(targets.code_size.sum())
    if items is None:
        return columns
    slots = targets.items.ids
    if items.have_rows:
        columns += int(torch.from_numpy(items.slices[1])[slots].sum())
        columns += len(items) * len(slots) * (items.softmax_weight > 0)
    if items.head_size:
        columns += len(slots) * sum(vocabulary.codebook_sizes[: items.codes.shape[1]])
    return columns


# dense bf16 products per second, by a part of the device's name; the first that fits counts.
# Source: NVIDIA's data sheets, without sparsity
BF16_PEAKS = {
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H200": 989e12,
    "A100": 312e12,
}


def peak_flops(dtype: torch.dtype, device: torch.device) -> float:
    """Returns the most that a device can do: its data sheet's figure, else `matmul_peak`'s.

    Data sheets count for bf16 on a known GPU; a share of theirs is called MFU.
    """
    if dtype is torch.bfloat16 and device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        stated = (peak for part, peak in BF16_PEAKS.items() if part in name)
        return next(stated, 0.0) or matmul_peak(dtype, device)
    return matmul_peak(dtype, device)


@functools.cache
def matmul_peak(dtype: torch.dtype, device: torch.device) -> float:
    """Measures the floating-point operations per second of this process' largest products.

    Takes a tenth of a second. It is what this process' threads reach while the other ranks run too.
    """
    size = 8192 if device.type == "cuda" else 768
    # a generator of its own: the global one has been seeded for the step's dropout
    generator = torch.Generator(device).manual_seed(0)
    a, b = (
        torch.randn(size, size, dtype=dtype, device=device, generator=generator) for _ in range(2)
    )
    durations = []
    with torch.no_grad():
        for _ in range(8):
            _wait(device)
            began = time.perf_counter()
            torch.mm(a, b)
            _wait(device)
            durations.append(time.perf_counter() - began)
    return 2.0 * size**3 / min(durations)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
