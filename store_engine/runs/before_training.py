"""What can be known before stage 1 is checked before stage 1, not after hours of training."""

import collections
import os
import shutil
import sys
from pathlib import Path

from store_engine._C import simd_targets
from store_engine.config import Config, ModelConfig
from store_engine.data.catalog import Catalog
from store_engine.errors import InputError
from store_engine.sid.clusters import with_item_level
from store_engine.sid.sids_file import read_sids_of

_MAX_CODEBOOK_SIZE = 1 << 16  # of the core's trie, also for a collision suffix
_CHECKPOINT_BYTES = 16  # per weight: bf16 and float32 copies, and AdamW's two moments
_CHECKPOINTS = 3  # the last one of each stage, and the next beside it


def check_before_training(
    config: Config, catalog: Catalog, num_users: int, text_vocab_size: int
) -> None:
    """Refuses what would fail in a later stage.

    Args:
        config: The run's config, which has checked itself.
        catalog: The items.
        num_users: Users with enough events.
        text_vocab_size: Tokens of the text vocabulary.

    Raises:
        InputError: The config does not fit the data or this machine.
    """
    try:
        simd_targets()
    except ValueError as error:  # STORE_ENGINE_SIMD names what this CPU does not have
        raise InputError(str(error)) from error
    if num_users == 0:
        raise InputError(
            f"there is nobody to learn from: no user has data.min_events = "
            f"{config.data.min_events} events"
        )
    codebook_size, num_items = config.tokenizer.codebook_size, catalog.num_items
    if codebook_size > num_items:
        raise InputError(
            f"tokenizer.codebook_size must not exceed the number of items, "
            f"got {codebook_size} > {num_items}"
        )
    if config.tokenizer.sids_file:
        codes = read_sids_of(config, catalog.item_ids)
        if config.tokenizer.last_level == "item" or config.tokenizer.collisions == "suffix":
            with_item_level(codes)  # there may be more items of one code than can be numbered
    if config.tokenizer.collisions != "share" and num_items > _MAX_CODEBOOK_SIZE:
        texts = collections.Counter(zip(*catalog.fields.values(), strict=True))
        ((text, count),) = texts.most_common(1)
        if count > _MAX_CODEBOOK_SIZE:
            raise InputError(
                f"{count:,} items have the same text, {text[0][:40]!r}: at most "
                f"{_MAX_CODEBOOK_SIZE:,} can have the same codes; tell them apart by another of "
                f"data.text_fields, or set tokenizer.collisions = 'share'"
            )
    weight_bytes = 4 * num_weights(config, text_vocab_size)
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if weight_bytes > memory:
        raise InputError(
            f"[model] is too large: its weights alone take {weight_bytes / 2**30:,.1f} GiB, this "
            f"machine has {memory / 2**30:,.1f} GiB of memory"
        )


def warn_of_full_disk(config: Config, root: Path, text_vocab_size: int) -> None:
    """Prints a warning if the disk has less space than the checkpoints may take.

    Args:
        config: The run's config.
        root: The run directory, which need not exist yet.
        text_vocab_size: Tokens of the text vocabulary.
    """
    folder = root
    while not folder.exists():
        folder = folder.parent
    weights = num_weights(config, text_vocab_size)
    needed = weights * (_CHECKPOINTS * _CHECKPOINT_BYTES + 2 * 4)  # and the weights of both stages
    free = shutil.disk_usage(folder).free
    if needed > free:
        print(
            f"warning: {root}: weights and checkpoints may take {needed / 2**30:,.1f} GiB, "
            f"{free / 2**30:,.1f} GiB are free",
            file=sys.stderr,
        )


def num_weights(config: Config, text_vocab_size: int) -> int:
    """Weights of stage 2's model, but for a collision suffix, whose size is not known yet."""
    model, tokenizer = config.model, config.tokenizer
    num_codes = tokenizer.num_codes * tokenizer.codebook_size
    tables = (1 if model.tie_text_head else 2) * text_vocab_size + 2 * num_codes
    return tables * model.hidden_size + model.num_layers * _layer_weights(model) + model.hidden_size


def _layer_weights(model: ModelConfig) -> int:
    heads = model.num_heads * model.head_dim
    qkv = heads + 2 * model.num_kv_heads * model.head_dim
    biases = {"none": 0, "qkv": qkv, "all": qkv + model.hidden_size}[model.attention_bias]
    norms = 2 * model.hidden_size + (2 * model.head_dim if model.qk_norm else 0)
    attention = model.hidden_size * (qkv + heads)
    return attention + 3 * model.hidden_size * model.intermediate_size + biases + norms
