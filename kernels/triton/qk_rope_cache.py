"""Triton kernel of `qk_rope_cache`."""

import triton
import triton.language as tl
from torch import Tensor

from store_engine.kernels._dispatch import device_guard

_ENTRIES = 1024  # of a tile of heads


# fmt: off
@triton.jit
def _load_weight(q_weight_ptr, k_weight_ptr, dim, is_q, is_k):
    """Weights of a tile of heads, each head's own; 1 where a head has none."""
    q_weight = tl.load(q_weight_ptr + dim, is_q, other=1.0).to(tl.float32)
    return tl.load(k_weight_ptr + dim, is_k, other=1.0).to(tl.float32) * q_weight


@triton.jit
def _qk_rope_cache_kernel(
    qkv_ptr, q_weight_ptr, k_weight_ptr, cosine_ptr, sine_ptr, positions_ptr, slots_ptr, q_ptr,
    keys_ptr, values_ptr, num_heads, num_kv_heads, head_dim, eps,
    Q_NORM: tl.constexpr, K_NORM: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_D: tl.constexpr,
):
    """A few heads of one token, each as two halves of BLOCK_D columns."""
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * BLOCK_H + tl.arange(0, BLOCK_H)[:, None]
    num_all, half = num_heads + 2 * num_kv_heads, head_dim // 2
    dim = tl.arange(0, BLOCK_D)[None, :]
    is_dim = dim < half
    mask = (head < num_all) & is_dim
    is_q = head < num_heads
    is_k = (head >= num_heads) & (head < num_heads + num_kv_heads)
    is_v = head >= num_heads + num_kv_heads
    at = (row * num_all + head) * head_dim + dim
    first = tl.load(qkv_ptr + at, mask, other=0.0).to(tl.float32)
    second = tl.load(qkv_ptr + at + half, mask, other=0.0).to(tl.float32)

    is_q_normed = is_dim & ((is_q & Q_NORM) != 0)
    is_k_normed = is_dim & ((is_k & K_NORM) != 0)
    if Q_NORM or K_NORM:
        mean = tl.sum(first * first + second * second, 1)[:, None] / head_dim
        scale = tl.where(is_q_normed | is_k_normed, tl.rsqrt(mean + eps), 1.0)
        w = _load_weight(q_weight_ptr, k_weight_ptr, dim, is_q_normed, is_k_normed)
        first *= scale * w
        w = _load_weight(q_weight_ptr, k_weight_ptr, dim + half, is_q_normed, is_k_normed)
        second *= scale * w

    angle = tl.load(positions_ptr + row).to(tl.int64) * half + dim
    cosine = tl.load(cosine_ptr + angle, is_dim, other=0.0)
    sine = tl.load(sine_ptr + angle, is_dim, other=0.0)
    rotated = tl.where(is_v, first, first * cosine - second * sine)
    second = tl.where(is_v, second, second * cosine + first * sine)
    first = rotated

    at = (row * num_heads + head) * head_dim + dim
    tl.store(q_ptr + at, first, is_dim & is_q)
    tl.store(q_ptr + at + half, second, is_dim & is_q)
    slot = tl.load(slots_ptr + row).to(tl.int64)
    if slot >= 0:
        at = (slot * num_kv_heads + head - num_heads) * head_dim + dim
        tl.store(keys_ptr + at, first, is_dim & is_k)
        tl.store(keys_ptr + at + half, second, is_dim & is_k)
        at -= num_kv_heads * head_dim
        tl.store(values_ptr + at, first, mask & is_v)
        tl.store(values_ptr + at + half, second, mask & is_v)
# fmt: on


def _launch_config(head_dim: int) -> dict[str, int]:
    """Heads enough for 8 entries per thread."""
    block_d = triton.next_power_of_2(head_dim // 2)
    return {"BLOCK_H": max(_ENTRIES // (2 * block_d), 1), "BLOCK_D": block_d, "num_warps": 4}


def launch_qk_rope_cache(
    qkv: Tensor,
    q_weight: Tensor | None,
    k_weight: Tensor | None,
    cosine: Tensor,
    sine: Tensor,
    positions: Tensor,
    slots: Tensor,
    keys: Tensor,
    values: Tensor,
    eps: float,
    num_heads: int,
) -> Tensor:
    """Does what `qk_rope_cache` does, for arguments that it has checked."""
    num_rows, (num_kv_heads, head_dim) = len(qkv), keys.shape[1:]
    q = qkv.new_empty(num_rows, num_heads, head_dim)
    if qkv.numel():
        config = _launch_config(head_dim)
        grid = num_rows, triton.cdiv(num_heads + 2 * num_kv_heads, config["BLOCK_H"])
        weights = [qkv if x is None else x for x in (q_weight, k_weight)]  # not read where None
        sizes = num_heads, num_kv_heads, head_dim, eps
        with device_guard(qkv):
            _qk_rope_cache_kernel[grid](
                qkv,
                *weights,
                cosine,
                sine,
                positions,
                slots,
                q,
                keys,
                values,
                *sizes,
                Q_NORM=q_weight is not None,
                K_NORM=k_weight is not None,
                **config,
            )
    return q
