"""Triton kernels of `trie_select`: a key for every child, and the best keys of each request."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from store_engine.kernels._dispatch import all_registers, device_guard
from store_engine.kernels.trie_select import Backpointers, Filter
from store_engine.kernels.trie_topk import Beams, Level, Normalize
from store_engine.kernels.triton.online_softmax import add_tile, log_sum
from store_engine.kernels.triton.trie_topk import (
    _NOTHING,
    _is_bad_row,
    _pack,
    _rank,
    _unpack_score,
)

_BINS: tl.constexpr = tl.constexpr(1 << 11)  # of a digit of a key


# fmt: off
@triton.jit
def _num_before(excluded_ptr, place, num_excluded, num_steps, mask):
    """How many of the ascending `excluded` are less than each place, in 2^num_steps - 1 at most."""
    found = tl.zeros_like(place)
    for i in range(0, num_steps):
        probe = found + (1 << (num_steps - 1 - i))
        is_inside = mask & (probe <= num_excluded)
        other = tl.load(excluded_ptr + probe - 1, is_inside, other=0)
        found = tl.where(is_inside & (other < place), probe, found)
    return found


@triton.jit
def _num_alive(
    words_ptr, ranks_ptr, request_set, excluded_ptr, num_excluded, num_steps, begin, end, mask,
):
    """Items of the request's set in [begin, end), less the excluded ones."""
    allowed = end - begin
    if request_set >= 0:
        allowed = _rank(words_ptr, ranks_ptr, end, mask) - _rank(words_ptr, ranks_ptr, begin, mask)
    excluded = _num_before(excluded_ptr, end, num_excluded, num_steps, mask)
    return allowed - excluded + _num_before(excluded_ptr, begin, num_excluded, num_steps, mask)


@triton.jit
def _filter_of(request, words_ptr, ranks_ptr, set_index_ptr, excluded_ptr, num_words, num_excluded):
    """What `_num_alive` is given of a request; a set below 0 is none: its words are not read."""
    request_set = tl.load(set_index_ptr + request).to(tl.int64)
    first_word = request_set * num_words
    return (
        words_ptr + first_word, ranks_ptr + first_word, request_set,
        excluded_ptr + request * num_excluded,
    )


@triton.jit
def _is_alive(
    item_begin_ptr, words_ptr, ranks_ptr, request_set, excluded_ptr, num_excluded, num_steps, child,
    mask,
):
    """Whether more items of the request's set than excluded ones stand below each child."""
    begin = tl.load(item_begin_ptr + child, mask, other=0).to(tl.int64)
    end = tl.load(item_begin_ptr + child + 1, mask, other=0).to(tl.int64)
    return _num_alive(
        words_ptr, ranks_ptr, request_set, excluded_ptr, num_excluded, num_steps, begin, end, mask,
    ) > 0


@triton.jit
def _children(nodes_ptr, child_begin_ptr, beam, mask):
    """Begin and end of the children of some beams; nothing where masked."""
    node = tl.load(nodes_ptr + beam, mask, other=0).to(tl.int64)
    begin = tl.load(child_begin_ptr + node, mask, other=0).to(tl.int64)
    return begin, tl.load(child_begin_ptr + node + 1, mask, other=0).to(tl.int64)


@triton.jit(
    do_not_specialize=[
        "beam_width", "stride_batch", "stride_beam", "num_words", "num_excluded", "num_steps"
    ]
)
def _trie_select_keys_kernel(
    logits_ptr, scores_ptr, nodes_ptr, num_valid_ptr, child_begin_ptr, tokens_ptr,
    words_ptr, ranks_ptr, set_index_ptr, excluded_ptr, item_begin_ptr,
    child_keys_ptr, key_end_ptr, is_bad_ptr,
    beam_width, codebook_size, stride_batch, stride_beam, num_words, num_excluded, num_steps,
    CHILDREN: tl.constexpr, FILTER: tl.constexpr, BLOCK: tl.constexpr,
):
    """The keys of one beam's children, behind those of the beams before it.

    child_keys is (batch, beam_width * codebook_size), key_end (batch, beam_width): where the keys
    of each beam end.
    """
    request = tl.program_id(0).to(tl.int64)
    beam = tl.program_id(1)
    row = request * beam_width + beam
    nodes_ptr += request * beam_width
    num_valid = tl.load(num_valid_ptr + request).to(tl.int32)
    key_begin = tl.full((), 0, tl.int64)
    num_before = tl.minimum(beam, num_valid)
    for low in range(0, num_before, BLOCK):
        other = low + tl.arange(0, BLOCK)
        begins, ends = _children(nodes_ptr, child_begin_ptr, other, other < num_before)
        key_begin += tl.sum(ends - begins)
    begin, end = _children(nodes_ptr, child_begin_ptr, beam, beam < num_valid)
    tl.store(key_end_ptr + row, key_begin + end - begin)

    is_bad = tl.full((), 0, tl.int32)
    if beam < num_valid:
        logits_ptr += request * stride_batch + beam.to(tl.int64) * stride_beam
        request_set = tl.full((), -1, tl.int64)
        if FILTER:
            words_ptr, ranks_ptr, request_set, excluded_ptr = _filter_of(
                request, words_ptr, ranks_ptr, set_index_ptr, excluded_ptr, num_words, num_excluded
            )
        peak = tl.full((), float("-inf"), tl.float32)
        total = tl.full((), 0.0, tl.float32)
        if CHILDREN:
            for first in range(begin, end, BLOCK):
                child = first + tl.arange(0, BLOCK).to(tl.int64)
                mask = child < end
                code = tl.load(tokens_ptr + child, mask, other=0).to(tl.int32)
                if FILTER:
                    mask &= _is_alive(
                        item_begin_ptr, words_ptr, ranks_ptr, request_set, excluded_ptr,
                        num_excluded, num_steps, child, mask,
                    )
                x = tl.load(logits_ptr + code, mask, other=float("-inf")).to(tl.float32)
                peak, total = add_tile(peak, total, x)
            is_bad = _is_bad_row(logits_ptr, codebook_size, BLOCK)
            lse = log_sum(peak, total)
        else:
            for low in range(0, codebook_size, BLOCK):
                code = low + tl.arange(0, BLOCK)
                x = tl.load(logits_ptr + code, code < codebook_size, other=float("-inf"))
                peak, total = add_tile(peak, total, x.to(tl.float32))
            lse = log_sum(peak, total)
            is_bad = ((lse != lse) | (lse == float("inf"))).to(tl.int32)

        beam_score = tl.load(scores_ptr + row)
        child_keys_ptr += request * beam_width * codebook_size + key_begin
        for first in range(begin, end, BLOCK):
            child = first + tl.arange(0, BLOCK).to(tl.int64)
            is_child = child < end
            code = tl.load(tokens_ptr + child, is_child, other=0).to(tl.int32)
            x = tl.load(logits_ptr + code, is_child, other=float("-inf")).to(tl.float32)
            score = beam_score + (x - lse)
            mask = is_child & (score > float("-inf"))
            if FILTER:
                mask &= _is_alive(
                    item_begin_ptr, words_ptr, ranks_ptr, request_set, excluded_ptr, num_excluded,
                    num_steps, child, mask,
                )
            key = tl.where(mask, _pack(score, child), _NOTHING)
            tl.store(child_keys_ptr + child - begin, key, is_child)
    tl.store(is_bad_ptr + row, is_bad)


@triton.jit
def _lowest_of_the_best(keys_ptr, num_keys, width, BLOCK: tl.constexpr):
    """The width-th largest key, or one between it and the next; all are above it if they are fewer.

    From the highest digit down: its histogram over the keys that agree with the digits found.
    """
    bins = tl.arange(0, _BINS)
    lowest = tl.full((), 1, tl.int64)  # as all keys here, with the sign flipped: above nothing's 0
    is_known = tl.full((), 0, tl.int64)  # the bits of `lowest` that are found
    wanted = width
    is_open = num_keys > width
    for digit in range(0, 6):
        if is_open:
            shift = tl.maximum(53 - 11 * digit, 0)
            counts = tl.zeros([_BINS], tl.int32)
            for first in range(0, num_keys, BLOCK):
                at = first + tl.arange(0, BLOCK)
                key = tl.load(keys_ptr + at, at < num_keys, other=_NOTHING) ^ _NOTHING
                is_rival = (key != 0) & (((key ^ lowest) & is_known) == 0)
                place = (key >> shift) & (_BINS - 1)
                counts += tl.histogram(place.to(tl.int32), _BINS, is_rival)
            at_least = tl.cumsum(counts, 0, reverse=True)
            found = tl.max(tl.where(at_least >= wanted, bins, -1))
            is_open = found >= 0
            if is_open:
                wanted -= tl.sum(tl.where(bins > found, counts, 0))
                is_open = tl.sum(tl.where(bins == found, counts, 0)) > wanted
                lowest = (lowest & is_known) | (found.to(tl.int64) << shift)
                is_known = tl.full((), -1, tl.int64) << shift
    return lowest ^ _NOTHING


@triton.jit
def _keep(keys_ptr, num_keys, lowest, kept_keys_ptr, kept_at_ptr, BLOCK: tl.constexpr):
    """Writes the keys that are not below the lowest, in any order, and where they stood."""
    num_kept = tl.full((), 0, tl.int32)
    for first in range(0, num_keys, BLOCK):
        at = first + tl.arange(0, BLOCK)
        key = tl.load(keys_ptr + at, at < num_keys, other=_NOTHING)
        is_kept = key >= lowest
        count = tl.cumsum(is_kept.to(tl.int32), 0)
        tl.store(kept_keys_ptr + num_kept + count - 1, key, is_kept)
        tl.store(kept_at_ptr + num_kept + count - 1, at, is_kept)
        num_kept += tl.max(count)
    return num_kept


@triton.jit
def _rank_among(keys_ptr, num_keys, key, BLOCK_R: tl.constexpr):
    """The number of keys that are larger than each of some."""
    rank = tl.zeros([BLOCK_R], tl.int32)
    for low in range(0, num_keys, BLOCK_R):
        other = low + tl.arange(0, BLOCK_R)
        rival = tl.load(keys_ptr + other, other < num_keys, other=_NOTHING)
        rank += tl.sum((rival[None, :] > key[:, None]).to(tl.int32), 1)
    return rank


@triton.jit(do_not_specialize=["beam_width", "width", "num_slots", "begin", "parent_begin"])
def _trie_select_top_kernel(
    child_keys_ptr, key_end_ptr, is_bad_ptr, was_bad_ptr, tokens_ptr, kept_keys_ptr, kept_at_ptr,
    top_scores_ptr, top_parents_ptr, top_tokens_ptr, top_nodes_ptr, top_num_valid_ptr,
    top_is_bad_ptr, back_ptr, beam_width, codebook_size, width, num_slots, begin, parent_begin,
    BACK: tl.constexpr, BLOCK: tl.constexpr, BLOCK_R: tl.constexpr,
):
    """The best keys of one request, in order, and what they stand for.

    kept_keys and kept_at, (batch, width), hold them in any order.
    """
    request = tl.program_id(0).to(tl.int64)
    child_keys_ptr += request * beam_width * codebook_size
    key_end_ptr += request * beam_width
    kept_keys_ptr += request * width
    kept_at_ptr += request * width
    is_bad = tl.full((), 0, tl.int32)
    for first in range(0, beam_width, BLOCK):
        beam = first + tl.arange(0, BLOCK)
        bad = tl.load(is_bad_ptr + request * beam_width + beam, beam < beam_width, other=0)
        is_bad |= tl.max(bad)
    num_keys = tl.where(is_bad == 0, tl.load(key_end_ptr + beam_width - 1), 0).to(tl.int32)

    lowest = _lowest_of_the_best(child_keys_ptr, num_keys, width, BLOCK)
    num_kept = _keep(child_keys_ptr, num_keys, lowest, kept_keys_ptr, kept_at_ptr, BLOCK)
    tl.debug_barrier()  # from here on a thread reads what others wrote

    for first in range(0, width, BLOCK_R):
        slot = first + tl.arange(0, BLOCK_R)
        is_beam = slot < num_kept
        key = tl.load(kept_keys_ptr + slot, is_beam, other=_NOTHING)
        at = tl.load(kept_at_ptr + slot, is_beam, other=0)
        rank = _rank_among(kept_keys_ptr, num_kept, key, BLOCK_R)
        parent = tl.zeros([BLOCK_R], tl.int32)
        for low in range(0, beam_width, BLOCK_R):
            beam = low + tl.arange(0, BLOCK_R)
            end = tl.load(key_end_ptr + beam, beam < beam_width, other=2147483647)
            parent += tl.sum((end[None, :] <= at[:, None]).to(tl.int32), 1)
        node = tl.where(is_beam, 0xFFFFFFFF - (key & 0xFFFFFFFF), -1)
        token = tl.load(tokens_ptr + node, is_beam, other=0).to(tl.int32)
        out = request * width + tl.where(is_beam, rank, slot)
        mask = slot < width
        tl.store(top_scores_ptr + out, tl.where(is_beam, _unpack_score(key), float("-inf")), mask)
        tl.store(top_parents_ptr + out, tl.where(is_beam, parent, -1), mask)
        tl.store(top_tokens_ptr + out, tl.where(is_beam, token, -1), mask)
        tl.store(top_nodes_ptr + out, node, mask)
        if BACK:
            place = begin + tl.where(is_beam, rank, slot)
            back = tl.where(is_beam, parent_begin + parent, -1)
            tl.store(back_ptr + request * num_slots + place, back, mask)
    tl.store(top_num_valid_ptr + request, num_kept)
    was_bad = tl.load(was_bad_ptr + request).to(tl.int32)
    tl.store(top_is_bad_ptr + request, (was_bad | is_bad).to(tl.uint8))
# fmt: on


def _keys_config(codebook_size: int) -> dict[str, int]:
    block = min(max(triton.next_power_of_2(codebook_size), 32), 1024)
    return {"BLOCK": block, "num_warps": min(max(block // 128, 1), 4), **all_registers()}


def top_config() -> dict[str, int]:
    """Tiles of the keys, and of what is kept."""
    return {"BLOCK": 1024, "BLOCK_R": 64, "num_warps": 8}


def filter_arguments(
    filter: Filter | None, nothing: Tensor
) -> tuple[tuple[Tensor, ...], tuple[int, int, int]]:
    """What a kernel is given of a filter: its arrays, and words, exclusions and steps of these.

    Args:
        filter: None: the arrays are not read.
        nothing: What stands for them.
    """
    if filter is None:
        return 5 * (nothing,), (0, 0, 0)
    num_excluded = filter.excluded.shape[1]
    return tuple(filter), (filter.words.shape[1], num_excluded, num_excluded.bit_length())


def launch_trie_select(
    logits: Tensor,
    beams: Beams,
    level: Level,
    width: int,
    normalize: Normalize,
    filter: Filter | None,
    back: Backpointers | None,
) -> Beams:
    """Does what `trie_select` does, for arguments that it has checked and a batch that is not 0."""
    batch, beam_width, codebook_size = logits.shape
    nodes, new = beams.nodes, beams.nodes.new_empty
    child_keys = new(batch, beam_width * codebook_size, dtype=torch.int64)
    key_end, is_bad = new(2, batch, beam_width, dtype=torch.int32)
    kept_keys, kept_at = new(batch, width, dtype=torch.int64), new(batch, width, dtype=torch.int32)
    parents, tokens, children = new(3, batch, width)
    scores, flags = beams.scores.new_empty(batch, width), new(batch, dtype=torch.uint8)
    found = Beams(scores, parents, tokens, children, new(batch), flags)
    arrays, filter_sizes = filter_arguments(filter, level.child_begin)
    with device_guard(logits):
        _trie_select_keys_kernel[(batch, beam_width)](
            logits,
            beams.scores,
            nodes,
            beams.num_valid,
            level.child_begin,
            level.tokens,
            *arrays,
            child_keys,
            key_end,
            is_bad,
            beam_width,
            codebook_size,
            *logits.stride()[:2],
            *filter_sizes,
            CHILDREN=normalize == "children",
            FILTER=filter is not None,
            **_keys_config(codebook_size),
        )
        _trie_select_top_kernel[(batch,)](
            child_keys,
            key_end,
            is_bad,
            beams.is_bad.view(torch.uint8),
            level.tokens,
            kept_keys,
            kept_at,
            *found,
            nodes if back is None else back.slots,  # not written without backpointers
            beam_width,
            codebook_size,
            width,
            *((0, 0, 0) if back is None else (back.slots.shape[1], *back[1:])),
            BACK=back is not None,
            **top_config(),
        )
    return found._replace(is_bad=flags.view(torch.bool))
