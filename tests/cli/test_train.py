import pytest

from store_engine.cli.train import parse_arguments


def test_data_is_short_for_an_override():
    args = parse_arguments(["--ds_config", "zero.json", "run_dir=x", "--data", 'a "b"', "--resume"])
    assert args.overrides == ["run_dir=x", 'data.path="a \\"b\\""']
    assert (args.ds_config, args.resume, args.overwrite) == ("zero.json", True, False)


def test_configs_may_be_several():
    default = parse_arguments(["--ds_config", "z.json"]).config
    assert default == ["configs/ml100k.toml", "configs/presets/ours.toml"]
    several = ["--config", "a.toml", "--ds_config", "z.json", "--config", "b.toml"]
    assert parse_arguments(several).config == ["a.toml", "b.toml"]


def test_the_launchers_flag_is_taken():
    assert parse_arguments(["--local_rank=1", "--ds_config", "zero.json"]).local_rank == 1


def test_the_usage_names_the_verb(capsys):
    with pytest.raises(SystemExit) as exit_:
        parse_arguments([])
    assert exit_.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith("usage: store-engine train ")
    assert "--ds_config" in err.splitlines()[-1]
