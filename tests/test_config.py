import dataclasses
import math
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store_engine.config import (
    Change,
    Config,
    DataConfig,
    DecodingConfig,
    changes,
    dump_config,
    load_config,
    read_config_tree,
)
from store_engine.config.reference import reference
from store_engine.config.settings import is_runtime, range_of
from store_engine.errors import InputError

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.toml"))
PRESETS_FOLDER = Path(__file__).parents[1] / "configs" / "presets"
PRESETS = sorted(PRESETS_FOLDER.glob("*.toml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_loads_and_comes_back(path, tmp_path):
    config = load_config(path)
    written = tmp_path / "config.toml"
    written.write_text(dump_config(config))
    assert load_config(written) == config


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_preset_goes_with_every_config_and_counts(path, preset):
    config = load_config([path, preset])
    assert config.data.text_fields == load_config(path).data.text_fields
    assert "run_dir" not in read_config_tree(preset)
    for section, values in read_config_tree(preset).items():
        for key, value in values.items():
            wanted = tuple(value) if isinstance(value, list) else value
            assert getattr(getattr(config, section), key) == wanted


def test_store_and_lamia_differ_in_the_contrastive_loss_alone():
    store, lamia = (load_config(PRESETS_FOLDER / f"{name}.toml") for name in ("store", "lamia"))
    assert store.tokenizer.contrastive_weight == 0
    assert lamia.tokenizer.contrastive_weight == 0.1
    tokenizer = dataclasses.replace(store.tokenizer, contrastive_weight=0.1)
    assert dataclasses.replace(store, tokenizer=tokenizer) == lamia


def test_of_several_files_the_later_one_counts(tmp_path):
    first, second = tmp_path / "first.toml", tmp_path / "second.toml"
    first.write_text('run_dir = "one"\n[tokenizer]\nnum_codes = 2\ncodebook_size = 8\n')
    second.write_text('run_dir = "two"\n[tokenizer]\nnum_codes = 5\n[eval]\nmax_k = 7\n')
    config = load_config([first, second], ["tokenizer.pca_dim=3"])
    assert (config.run_dir, config.eval.max_k) == ("two", 7)
    tokenizer = config.tokenizer
    assert (tokenizer.num_codes, tokenizer.codebook_size, tokenizer.pca_dim) == (5, 8, 3)
    assert load_config([]) == Config()
    second.write_text("tokenizer = 3\n")
    with pytest.raises(InputError, match="tokenizer must be a section, got 3"):
        load_config([first, second])


def test_dump_escapes_what_toml_cannot_hold(tmp_path):
    config = load_config(None, ['data.path="a\\"b\\\\c\\u0007d é"'])
    assert config.data.path == 'a"b\\c\x07d é'
    written = tmp_path / "config.toml"
    written.write_text(dump_config(config), encoding="utf-8")
    assert load_config(written) == config


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("train.save_every=7", lambda c: c.train.save_every == 7),
        ("recommender.lr=1e-4", lambda c: c.recommender.lr == 1e-4),
        ("recommender.lr=1", lambda c: c.recommender.lr == 1.0),
        ("data.name=synthetic", lambda c: c.data.name == "synthetic"),
        ('data.text_fields=["a", "b"]', lambda c: c.data.text_fields == ("a", "b")),
        ("model.tie_text_head=false", lambda c: c.model.tie_text_head is False),
        ("run_dir=runs/x", lambda c: c.run_dir == "runs/x"),
    ],
)
def test_overrides(override, value):
    assert value(load_config(None, [override]))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "train.lr=1e-3",
            "key train.lr; did you mean tokenizer.lr or recommender.lr",
        ),
        ("trian.seed=1", "unknown config key trian; did you mean train"),
        ("train.sed=1", "unknown config key train.sed; did you mean train.seed"),
        ("eval.beam_width=9", "key eval.beam_width; did you mean decoding.beam_width"),
        ("train.nothing=1", "unknown config key train.nothing; known: seed, dtype"),
        ("train.save_every=often", "train.save_every must be int, got 'often'"),
        ("train.save_every=true", "train.save_every must be int, got True"),
        ("train.dtype=float16", "train.dtype must be one of auto, float32, bfloat16"),
        ("train=1", "train must be a section"),
        ("seed", "must read section.key=value"),
        ("recommender.lr=nan", "recommender.lr must be finite"),
        ("model.hidden_size=0", r"model.hidden_size must be in \[1, 65536\], got 0"),
        ("model.num_heads=3", "multiple of num_kv_heads"),
        ("decoding.beam_width=10", "decoding.beam_width must be at least eval.max_k, got 10 < 20"),
        ("data.min_events=2", r"data.min_events must be in \[3, 1000000\], got 2"),
        ("model.head_dim=7", "model.head_dim must be even"),
        ("tokenizer.num_codes=16", "num_codes must be at most 15 with collisions = 'suffix'"),
        ("train.keep=best", "need train.eval_every > 0"),
        ("train.patience=2", "need train.eval_every > 0"),
        ("train.lora_rank=4", "needs a model.backbone"),
        ('data.text_fields=["a", "a"]', "must not name a column twice"),
        ("data.text_fields=[]", "must name at least one column"),
        ('data.path="a\\u0000b"', "data.path must be text"),
        ("data.path=\udcff", "data.path must be text"),
        ("train.seed=" + "9" * 5000, "train.seed: not a value"),
        ("train.seed=" + "[" * 5000, "train.seed: not a value"),
        ("train.min_lr=" + "9" * 400, "train.min_lr must be float"),
    ],
    ids=lambda value: ascii(value.split(",")[0])[:60],
)
def test_what_does_not_fit_is_refused(override, message):
    with pytest.raises(InputError, match=message):
        load_config(None, [override])


@pytest.mark.parametrize("content", [None, "[data\n", b"\xff\xfe"], ids=["no file", "toml", "utf8"])
def test_unreadable_files_are_refused(content, tmp_path):
    path = tmp_path / "config.toml"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=r"config\.toml"):
        load_config(path)


@pytest.mark.timeout(10)
def test_what_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "config.toml")
    with pytest.raises(InputError, match="must be a regular file, is a FIFO"):
        load_config(tmp_path / "config.toml")
    with pytest.raises(InputError, match="must be a regular file, is a directory"):
        load_config(tmp_path)


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
def test_every_text_comes_back(tmp_path_factory, text):
    config = Config(data=DataConfig(path=text))
    written = tmp_path_factory.getbasetemp() / "config.toml"
    written.write_bytes(dump_config(config).encode())
    assert load_config(written) == config


SECTIONS = [declared for declared in dataclasses.fields(Config) if declared.name != "run_dir"]
NUMBERS = [
    (section.name, declared)
    for section in SECTIONS
    for declared in dataclasses.fields(section.type)
    if declared.type in ("int", "float", int, float)
]


@pytest.mark.parametrize(("section", "declared"), NUMBERS, ids=lambda v: getattr(v, "name", v))
def test_every_number_has_a_range_and_refuses_what_is_outside(section, declared):
    bounds = range_of(declared)
    assert bounds is not None, "declare it with setting(default, low, high)"
    assert bounds.low <= declared.default <= bounds.high
    key, is_float = f"{section}.{declared.name}", isinstance(declared.default, float)
    outside = ["-1", "1e30" if is_float else str(10**30)]
    outside += ["nan", "inf", "-inf", "-1e-300", "1e308"] if is_float else ["0.5", "true"]
    if not is_float and declared.name != "seed":
        outside.append("1000000000")
    if bounds.low > 0:
        outside.append("0")
    for value in outside:
        with pytest.raises(InputError, match=rf"{key} must be "):
            load_config(None, [f"{key}={value}"])
    for value in (-1, 1e30, math.nan, math.inf):
        with pytest.raises(InputError, match=rf"{key} must be "):
            dataclasses.replace(getattr(Config(), section), **{declared.name: value})


def test_run_time_keys_are_those_that_leave_the_run_what_it_is():
    named = {
        f"{section.name}.{declared.name}"
        for section in SECTIONS
        for declared in dataclasses.fields(section.type)
        if is_runtime(declared) and section.name != "decoding"
    }
    assert named == {
        "data.path", "data.items", "data.interactions", "train.save_every", "train.threads",
        "train.activation_checkpointing", "train.compile", "train.tensorboard", "eval.max_k",
    }  # fmt: skip
    assert all(is_runtime(declared) for declared in dataclasses.fields(DecodingConfig))


def test_changes_name_every_key_that_differs():
    old, new = Config(), load_config(None, ["run_dir=x", "train.threads=3", "model.num_layers=2"])
    assert list(changes(old, new)) == [
        Change("run_dir", "runs/run", "x", True),
        Change("model.num_layers", 4, 2, False),
        Change("train.threads", 0, 3, True),
    ]


def test_the_page_of_all_keys_is_up_to_date():
    page = Path(__file__).parents[1] / "docs" / "config.md"
    made = reference()
    assert page.read_text(encoding="utf-8") == made, "python -m store_engine.config.reference"
    for section, declared in NUMBERS:
        assert f"| `{section}.{declared.name}` |" in made


def test_defaults_are_a_config():
    assert load_config() == Config()


@pytest.mark.parametrize("place", ["override", "file"])
def test_a_folder_is_read_where_an_earlier_config_draws_its_data(place, tmp_path):
    tiny = Path(__file__).parents[1] / "configs" / "tiny.toml"
    assert load_config(tiny).data.name == "synthetic"
    if place == "override":
        data = load_config(tiny, ["data.path=shop"]).data
    else:
        (tmp_path / "mine.toml").write_text('[data]\npath = "shop"\n')
        data = load_config([tiny, tmp_path / "mine.toml"]).data
    assert (data.name, data.path, data.text_fields) == ("files", "shop", ("title",))


def test_files_of_ones_own_have_no_text_of_movielens():
    assert load_config(None, ["data.name=files"]).data.text_fields == ("title",)
    stated = load_config(None, ["data.name=files", 'data.text_fields=["a"]']).data
    assert stated.text_fields == ("a",)
    assert load_config().data.text_fields[0] == "movie_title"
