from pathlib import Path

import pytest

from store_engine.config import Config, dump_config, load_config
from store_engine.errors import InputError

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.toml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_loads_and_comes_back(path, tmp_path):
    config = load_config(path)
    written = tmp_path / "config.toml"
    written.write_text(dump_config(config))
    assert load_config(written) == config


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
        ("train.lr=1e-3", "unknown config key train.lr"),
        ("trian.seed=1", "unknown config key trian"),
        ("train.save_every=often", "train.save_every must be int, got 'often'"),
        ("train.save_every=true", "train.save_every must be int, got True"),
        ("train.dtype=float16", "train.dtype must be one of auto, float32, bfloat16"),
        ("train=1", "train must be a section"),
        ("seed", "must read section.key=value"),
        ("recommender.lr=nan", "recommender.lr must be finite"),
        ("model.hidden_size=0", "model.hidden_size must be positive"),
        ("model.num_heads=3", "multiple of num_kv_heads"),
        ("decoding.beam_width=10", "decoding.beam_width must be at least eval.max_k, got 10 < 20"),
        ("data.min_events=2", "data.min_events must be at least 3"),
    ],
    ids=lambda value: value.split(",")[0],
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


def test_defaults_are_a_config():
    assert load_config() == Config()
