"""Plans: what they mean, and what is refused."""

from pathlib import Path

import pytest

from store_engine.errors import InputError
from store_engine.experiments.plan import read_plan

ROOT = Path(__file__).parents[2]
BASE = 'configs = ["base.toml"]\nds_config = "zero.json"\n'


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes a plan beside a config of ours and returns its path."""
    monkeypatch.chdir(tmp_path)
    Path("base.toml").write_text('run_dir = "elsewhere"\n[recommender]\nlr = 1e-3\nepochs = 3\n')
    Path("more.toml").write_text("[recommender]\nepochs = 5\n[train]\nthreads = 1\n")
    Path("zero.json").write_text("{}")

    def write(text, base=BASE):
        Path("plan.toml").write_text(base + text)
        return Path("plan.toml")

    return write


def test_a_plan_is_every_variant_with_every_seed(write):
    plan = read_plan(
        write(
            """
            seeds = [0, 7]
            overrides = ["model.num_layers=1"]
            [variants]
            base = []
            more = { configs = ["base.toml", "more.toml"], title = "more of it" }
            most = { base = "more", overrides = ["recommender.epochs=9"] }
            """
        )
    )
    assert [trial.name for trial in plan.trials] == [
        f"{name}, seed {seed}" for name in ("base", "more", "most") for seed in (0, 7)
    ]
    configs = [trial.config() for trial in plan.trials]
    assert [config.recommender.epochs for config in configs] == [3, 3, 5, 5, 9, 9]
    assert [config.train.seed for config in configs] == [0, 7] * 3
    assert [config.train.threads for config in configs] == [0, 0, 1, 1, 1, 1]
    assert all(config.recommender.lr == 1e-3 and config.model.num_layers == 1 for config in configs)
    assert [variant.title for variant in plan.variants] == ["base", "more of it", "most"]
    assert plan.trials[0].run_dir.parts[:4] == ("runs", "sweeps", "plan", "base")


def test_a_grid_is_a_product(write):
    grid = (
        '[grid]\n"recommender.lr" = [1e-3, 2e-3]\n"recommender.decoder" = ["heads", "transformer"]'
    )
    plan = read_plan(write(grid))
    names = [trial.variant.name for trial in plan.trials]
    assert names[:2] == [
        "recommender.lr=0.001,recommender.decoder=heads",
        "recommender.lr=0.001,recommender.decoder=transformer",
    ]
    got = [(t.config().recommender.lr, t.config().recommender.decoder) for t in plan.trials]
    assert got == [(lr, name) for lr in (1e-3, 2e-3) for name in ("heads", "transformer")]


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("plan.toml", BASE + '[variants]\na = ["recommender.lr=2e-3"]'),
        ("base.toml", "[recommender]\nlr = 2e-3\nepochs = 3\n"),
        ("zero.json", '{"x": 1}'),
    ],
)
def test_another_setting_is_another_trial(file, text, write):
    path = write("[variants]\na = []")
    before = read_plan(path).trials[0]
    Path(file).write_text(text)
    after = read_plan(path).trials[0]
    assert before.settings != after.settings
    assert before.run_dir != after.run_dir


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no [variants] and no [grid]"),
        ("sed = 3\n[variants]\na = []", "unknown 'sed'; a plan has configs"),
        ("[variants]\na = [3]", "variants.a: overrides must be a list of text, got [3]"),
        ("[variants]\na = 3", "variants.a: must be a list of section.key=value"),
        ("[variants]\n'../a' = []", "a name has letters"),
        ("[variants]\na = { base = 'b' }", "base must be a variant above it, got 'b'"),
        ("[variants]\na = ['recommender.lrr=1']", "a, seed 0: unknown config key recommender.lrr"),
        ("[variants]\na = ['tokenizer.num_codes=0']", "a, seed 0: tokenizer.num_codes"),
        ("[variants]\na = { configs = ['no.toml'] }", "no.toml: No such file"),
        ("seeds = [0, 0]\n[variants]\na = []", "seeds must be different whole numbers"),
        ("seeds = []\n[variants]\na = []", "seeds must be different whole numbers"),
        ("[grid]\n'recommender.lr' = 3", "grid.recommender.lr must be a list of values"),
        ("[grid]\n'recommender.lr' = [1e-3, 1e-3]", "two variants are named recommender.lr=0.001"),
        ("[grid]\n'data.text_fields' = [['a', 'b']]", "cannot name a variant"),
    ],
)
def test_what_is_no_plan_is_refused(text, message, write):
    with pytest.raises(InputError) as error:
        read_plan(write(text))
    assert message in str(error.value)


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "sweeps").glob("*.toml")))
def test_the_plans_of_the_tables_are_plans(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    if path.stem != "tiny" and not Path("configs/presets").is_dir():
        pytest.skip("configs/presets is not there")
    plan = read_plan(path)
    sections = plan.table.get("sections", {})
    names = [variant.name for variant in plan.variants]
    assert sorted(name for section in sections.values() for name in section) in ([], sorted(names))
