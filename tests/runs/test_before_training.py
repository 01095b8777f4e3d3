import dataclasses
import os
import shutil
import subprocess
import sys

import pytest

from store_engine.config import Config, ModelConfig, TokenizerConfig, load_config
from store_engine.data.catalog import Catalog
from store_engine.errors import InputError
from store_engine.model.store_model import StoreModel
from store_engine.runs import before_training
from store_engine.runs.before_training import (
    check_before_training,
    num_weights,
    warn_of_full_disk,
)
from store_engine.sid import clusters

CONFIG = Config(tokenizer=TokenizerConfig(num_codes=2, codebook_size=2))


def catalog(num_items, text="film"):
    ids = tuple(map(str, range(num_items)))
    return Catalog(ids, {"title": (text,) * num_items})


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tie_text_head": False},
        {"attention_bias": "qkv"},
        {"attention_bias": "all", "qk_norm": True},
        {"num_layers": 1, "hidden_size": 48, "num_heads": 6, "num_kv_heads": 3},
    ],
    ids=str,
)
def test_weights_are_counted_as_the_model_has_them(changes):
    config = dataclasses.replace(CONFIG, model=ModelConfig(**changes))
    model = StoreModel(config.model, 50, (2, 2))
    assert num_weights(config, 50) == sum(p.numel() for p in model.parameters())


def test_what_fits_is_welcome():
    check_before_training(CONFIG, catalog(2), 1, 300)


@pytest.mark.parametrize(
    ("overrides", "items", "users", "message"),
    [
        (["tokenizer.codebook_size=3"], 2, 1, "must not exceed the number of items, got 3 > 2"),
        ([], 100, 0, "nobody to learn from: no user has data.min_events = 3 events"),
        (["model.num_layers=1024", "model.hidden_size=65536"], 100, 1, "is too large"),
        (["model.intermediate_size=1000000", "model.num_layers=1000"], 100, 1, "is too large"),
    ],
)
def test_what_would_fail_later_is_refused_now(overrides, items, users, message):
    config = load_config(None, overrides)
    with pytest.raises(InputError, match=message):
        check_before_training(config, catalog(items), users, 300)


def test_a_file_of_sids_is_read_before_training(tmp_path):
    (tmp_path / "sids.csv").write_text("item_id,code_0,code_1\n0,1,1\n")
    tokenizer = dataclasses.replace(CONFIG.tokenizer, sids_file=str(tmp_path / "sids.csv"))
    config = dataclasses.replace(CONFIG, tokenizer=tokenizer)
    with pytest.raises(InputError, match="1 of 2 items of the catalogue have no SID"):
        check_before_training(config, catalog(2), 1, 300)


@pytest.mark.parametrize("settings", [{"last_level": "item"}, {"collisions": "suffix"}])
def test_more_items_of_one_code_than_can_be_numbered_are_refused(tmp_path, monkeypatch, settings):
    monkeypatch.setattr(clusters, "MAX_CODEBOOK_SIZE", 2)
    (tmp_path / "sids.csv").write_text("item_id,code_0\n" + "".join(f"{n},1\n" for n in range(3)))
    tokenizer = TokenizerConfig(
        sids_file=str(tmp_path / "sids.csv"), num_codes=1, codebook_size=2, **settings
    )
    config = dataclasses.replace(CONFIG, tokenizer=tokenizer)
    check_before_training(config, catalog(2), 1, 300)
    with pytest.raises(InputError, match=r"3 items have the codes \(1,\): at most 2 can"):
        check_before_training(config, catalog(3), 1, 300)


def test_more_equal_items_than_a_suffix_can_number_are_refused(monkeypatch):
    monkeypatch.setattr(before_training, "_MAX_CODEBOOK_SIZE", 9)
    check_before_training(CONFIG, catalog(9), 1, 300)
    with pytest.raises(InputError, match="10 items have the same text, 'film'"):
        check_before_training(CONFIG, catalog(10), 1, 300)
    share = dataclasses.replace(
        CONFIG, tokenizer=TokenizerConfig(collisions="share", codebook_size=2)
    )
    check_before_training(share, catalog(10), 1, 300)


def test_an_unknown_simd_override_is_one_line():
    program = (
        "from store_engine.runs.before_training import check_before_training as check\n"
        "from store_engine.config import Config\n"
        "from store_engine.data.catalog import Catalog\n"
        "ids = tuple(map(str, range(64)))\n"
        "check(Config(), Catalog(ids, {'title': ids}), 1, 300)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "STORE_ENGINE_SIMD": "sse9"},
        capture_output=True,
        text=True,
    )
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(
        "store_engine.errors.InputError: STORE_ENGINE_SIMD must be one of baseline"
    )


def test_a_disk_that_is_too_small_is_said(tmp_path, monkeypatch, capsys):
    place = tmp_path / "not" / "there" / "yet"
    warn_of_full_disk(CONFIG, place, 300)
    assert capsys.readouterr().err == ""
    usage = shutil.disk_usage(tmp_path)._replace(free=1 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    warn_of_full_disk(CONFIG, place, 300)
    error = capsys.readouterr().err
    assert error.startswith(f"warning: {place}: weights and checkpoints may take 0.")
    assert error.count("\n") == 1
