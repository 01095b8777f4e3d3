"""Triton kernels of `trie_topk`: each split's best children, and the merge of the splits."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from store_engine.kernels._dispatch import MIN_PROGRAMS, all_registers, device_guard
from store_engine.kernels.trie_topk import Beams, ItemBits, Level, Normalize
from store_engine.kernels.triton.online_softmax import add_tile, log_sum

_NOTHING: tl.constexpr = tl.constexpr(-(1 << 63))  # key below every candidate's


@triton.jit
def _pack(score, child):
    """A key that orders by score, then by lower node id."""
    bits = score.to(tl.int32, bitcast=True)
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)  # the order of floats as integers
    return (ordered.to(tl.int64) << 32) | (0xFFFFFFFF - child)


@triton.jit
def _unpack_score(key):
    ordered = (key >> 32).to(tl.int32)
    return (ordered ^ ((ordered >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def _rank(words_ptr, ranks_ptr, item, mask):
    """Allowed items before `item`: the directory's count, and the bits before it in its word."""
    word = tl.load(words_ptr + (item >> 5), mask, other=0).to(tl.int64)
    bits = word & ((1 << (item & 31)) - 1)
    bits = bits - ((bits >> 1) & 0x55555555)
    bits = (bits & 0x33333333) + ((bits >> 2) & 0x33333333)
    bits = (bits + (bits >> 4)) & 0x0F0F0F0F
    count = ((bits * 0x01010101) >> 24) & 0xFF
    return tl.load(ranks_ptr + (item >> 5), mask, other=0) + count


@triton.jit
def _is_alive(item_begin_ptr, words_ptr, ranks_ptr, child, mask):
    """Whether an allowed item stands below each child."""
    item = tl.load(item_begin_ptr + child, mask, other=0)
    stop = tl.load(item_begin_ptr + child + 1, mask, other=0)
    return _rank(words_ptr, ranks_ptr, stop, mask) > _rank(words_ptr, ranks_ptr, item, mask)


@triton.jit
def _log_sum_exp(
    logits_ptr, tokens_ptr, item_begin_ptr, words_ptr, ranks_ptr, begin, end,
    CHILDREN: tl.constexpr, FILTER: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Over logits[begin:end]; with CHILDREN over the logits of tokens[begin:end] that are alive."""
    peak = tl.full((), float("-inf"), tl.float32)
    total = tl.full((), 0.0, tl.float32)
    for first in range(begin, end, BLOCK):
        at = first + tl.arange(0, BLOCK).to(tl.int64)
        mask = at < end
        col = at
        if CHILDREN:
            col = tl.load(tokens_ptr + at, mask, other=0).to(tl.int64)
            if FILTER:
                mask &= _is_alive(item_begin_ptr, words_ptr, ranks_ptr, at, mask)
        x = tl.load(logits_ptr + col, mask, other=float("-inf")).to(tl.float32)
        peak, total = add_tile(peak, total, x)
    return log_sum(peak, total)


@triton.jit
def _is_bad_row(logits_ptr, size, BLOCK: tl.constexpr):
    """1 if a logit is NaN or +inf, else 0."""
    is_bad = tl.full((), 0, tl.int32)
    for first in range(0, size, BLOCK):
        at = first + tl.arange(0, BLOCK)
        x = tl.load(logits_ptr + at, at < size, other=0.0).to(tl.float32)
        is_bad |= tl.max(((x != x) | (x == float("inf"))).to(tl.int32))
    return is_bad


@triton.jit(do_not_specialize=["beam_width", "num_words", "width"])
def _trie_topk_beams_kernel(
    logits_ptr,
    scores_ptr,
    nodes_ptr,
    num_valid_ptr,
    child_begin_ptr,
    tokens_ptr,
    item_begin_ptr,
    words_ptr,
    ranks_ptr,
    top_keys_ptr,
    is_bad_ptr,
    beam_width,
    codebook_size,
    num_words,
    width,
    CHILDREN: tl.constexpr,
    FILTER: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_V: tl.constexpr,
):
    """One program takes every num_splits-th beam of a request and keeps its best, sorted."""
    request = tl.program_id(0).to(tl.int64)
    split = tl.program_id(1)
    num_splits = tl.num_programs(1)
    slot = tl.arange(0, BLOCK_K)
    top = tl.full([BLOCK_K], _NOTHING, tl.int64)
    is_bad = tl.full((), 0, tl.int32)
    words_ptr += request * num_words
    ranks_ptr += request * num_words
    for beam in range(split, tl.load(num_valid_ptr + request).to(tl.int32), num_splits):
        row = request * beam_width + beam
        beam_score = tl.load(scores_ptr + row)
        node = tl.load(nodes_ptr + row)
        begin = tl.load(child_begin_ptr + node)
        end = tl.load(child_begin_ptr + node + 1)
        row_ptr = logits_ptr + row * codebook_size
        if CHILDREN:
            log_sum = _log_sum_exp(
                row_ptr, tokens_ptr, item_begin_ptr, words_ptr, ranks_ptr, begin, end,
                True, FILTER, BLOCK_V,
            )  # fmt: skip
            is_bad |= _is_bad_row(row_ptr, codebook_size, BLOCK_V)
        else:
            log_sum = _log_sum_exp(
                row_ptr, tokens_ptr, item_begin_ptr, words_ptr, ranks_ptr, 0, codebook_size,
                False, False, BLOCK_V,
            )  # fmt: skip
            is_bad |= ((log_sum != log_sum) | (log_sum == float("inf"))).to(tl.int32)
        worst = tl.max(tl.where(slot == width - 1, top, _NOTHING))
        # no child scores more than its beam
        if (worst == _NOTHING) | (beam_score >= _unpack_score(worst)):
            for first in range(begin, end, BLOCK_K):
                child = first + slot.to(tl.int64)
                mask = child < end
                code = tl.load(tokens_ptr + child, mask, other=0).to(tl.int64)
                x = tl.load(row_ptr + code, mask, other=float("-inf")).to(tl.float32)
                score = beam_score + (x - log_sum)
                mask &= score > float("-inf")
                if FILTER:
                    mask &= _is_alive(item_begin_ptr, words_ptr, ranks_ptr, child, mask)
                key = tl.where(mask, _pack(score, child), _NOTHING)
                worst = tl.max(tl.where(slot == width - 1, top, _NOTHING))
                if tl.max(key) > worst:
                    # of two sorted lists, one reversed, the larger of each pair are the best
                    top = tl.sort(tl.maximum(top, tl.sort(key)), descending=True)
    tl.store(top_keys_ptr + (request * num_splits + split) * BLOCK_K + slot, top)
    tl.store(is_bad_ptr + request * num_splits + split, is_bad)


@triton.jit(do_not_specialize=["beam_width", "num_splits", "width"])
def _trie_topk_merge_kernel(
    top_keys_ptr,
    is_bad_ptr,
    was_bad_ptr,
    nodes_ptr,
    num_valid_ptr,
    child_begin_ptr,
    tokens_ptr,
    top_scores_ptr,
    top_parents_ptr,
    top_tokens_ptr,
    top_nodes_ptr,
    top_num_valid_ptr,
    top_is_bad_ptr,
    beam_width,
    num_splits,
    width,
    BLOCK_K: tl.constexpr,
):
    """Merges the lists of a request's programs and writes what the keys stand for."""
    request = tl.program_id(0).to(tl.int64)
    slot = tl.arange(0, BLOCK_K)
    top_keys_ptr += request * num_splits * BLOCK_K
    top = tl.load(top_keys_ptr + slot)
    is_bad = tl.load(is_bad_ptr + request * num_splits)
    for split in range(1, num_splits):
        other = tl.load(top_keys_ptr + split * BLOCK_K + (BLOCK_K - 1 - slot))  # ascending
        top = tl.sort(tl.maximum(top, other), descending=True)
        is_bad |= tl.load(is_bad_ptr + request * num_splits + split)
    top = tl.where(is_bad == 0, top, _NOTHING)
    is_beam = (top != _NOTHING) & (slot < width)
    child = tl.where(is_beam, 0xFFFFFFFF - (top & 0xFFFFFFFF), -1)
    parent = tl.full([BLOCK_K], -1, tl.int64)
    for beam in range(0, tl.load(num_valid_ptr + request).to(tl.int32)):
        node = tl.load(nodes_ptr + request * beam_width + beam)
        begin = tl.load(child_begin_ptr + node)
        end = tl.load(child_begin_ptr + node + 1)
        parent = tl.where((child >= begin) & (child < end), beam, parent)
    score = tl.where(is_beam, _unpack_score(top), float("-inf"))
    token = tl.load(tokens_ptr + child, is_beam, other=0).to(tl.int64)
    at = request * width + slot
    mask = slot < width
    tl.store(top_scores_ptr + at, score, mask)
    tl.store(top_parents_ptr + at, parent, mask)
    tl.store(top_tokens_ptr + at, tl.where(is_beam, token, -1), mask)
    tl.store(top_nodes_ptr + at, child, mask)
    tl.store(top_num_valid_ptr + request, tl.sum(is_beam.to(tl.int64)))
    was_bad = tl.load(was_bad_ptr + request).to(tl.int32)
    tl.store(top_is_bad_ptr + request, (was_bad | is_bad).to(tl.uint8))


def _launch_config(width: int) -> dict[str, int]:
    """The list of the best has a power of two of slots, at least a warp's worth."""
    block = max(triton.next_power_of_2(width), 32)
    return {"BLOCK_K": block, "num_warps": 4 if block > 64 else 1, **all_registers()}


def launch_trie_topk(
    logits: Tensor, beams: Beams, level: Level, width: int, normalize: Normalize
) -> Beams:
    """Does what `trie_topk` does, for arguments that it has checked and a batch that is not 0."""
    batch, beam_width, codebook_size = logits.shape
    config = _launch_config(width)
    num_splits = max(min(beam_width, MIN_PROGRAMS // batch), 1)
    nodes, num_valid = beams.nodes.contiguous(), beams.num_valid.contiguous()
    keys = nodes.new_empty(batch, num_splits, config["BLOCK_K"])
    is_bad = nodes.new_empty(batch, num_splits, dtype=torch.int32)
    scores = beams.scores.new_empty(batch, width)
    parents, codes, children = nodes.new_empty(3, batch, width)
    flags = nodes.new_empty(batch, dtype=torch.uint8)
    found = Beams(scores, parents, codes, children, nodes.new_empty(batch), flags)
    steps = level.child_begin, level.tokens
    bits = level.allowed or ItemBits(nodes, nodes, nodes)  # not read without a filter
    with device_guard(logits):
        _trie_topk_beams_kernel[(batch, num_splits)](
            logits.contiguous(),
            beams.scores.contiguous(),
            nodes,
            num_valid,
            *steps,
            *bits,
            keys,
            is_bad,
            beam_width,
            codebook_size,
            bits.words.shape[1],
            width,
            CHILDREN=normalize == "children",
            FILTER=level.allowed is not None,
            BLOCK_V=min(triton.next_power_of_2(codebook_size), 1024),
            **config,
        )
        was_bad = beams.is_bad.contiguous().view(torch.uint8)
        sizes = beam_width, num_splits, width
        _trie_topk_merge_kernel[(batch,)](
            keys, is_bad, was_bad, nodes, num_valid, *steps, *found, *sizes, **config
        )
    return found._replace(is_bad=flags.view(torch.bool))
