"""The printed and the saved result."""

import io
import json

import pytest
from rich.console import Console

from store_engine.evaluation.report import print_metrics, save_metrics
from store_engine.evaluation.titles import recommender_title

FIGURES = {f"{name}@{k}": 0.25 for name in ("recall", "ndcg") for k in (1, 5, 10, 20)} | {
    "mrr": 0.5
}
LEFT_OUT = {
    "metrics": FIGURES | {"recall@10": 0.1111},
    "standard_errors": FIGURES | {"recall@10": 0.0222},
    "baselines": {"popularity": FIGURES | {"recall@10": 0.3333}, "co_visitation": FIGURES},
    "buckets": {"0": {"num_users": 0.0}, "1-5": FIGURES | {"num_users": 1234.0}},
}
ALLOWED = LEFT_OUT | {
    "metrics": FIGURES | {"recall@10": 0.4444},
    "baselines": LEFT_OUT["baselines"] | {"own_items": FIGURES | {"recall@10": 0.5555}},
}


def metrics_of(primary="seen_left_out", **changes):
    protocols = {"seen_left_out": LEFT_OUT, "seen_allowed": ALLOWED}
    return {
        "dataset": "shop",
        "protocol": "leave-one-out",
        "primary": primary,
        "num_users": 80,
        "num_items": 20,
        "share_of_targets_seen": 0.345,
        "decoding": "beam 50",
        **protocols[primary],
        "protocols": protocols,
        "config": {"decoding": {"exclude_history": primary == "seen_left_out"}},
    } | changes


def printed(metrics, encoding="utf-8", **options):
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="backslashreplace")
    print_metrics(metrics, Console(file=file, width=80, **options))
    file.flush()
    return file.buffer.getvalue().decode(encoding)


@pytest.mark.parametrize(
    ("primary", "marked"),
    [("seen_left_out", "seen items left out *"), ("seen_allowed", "seen items allowed *")],
)
def test_both_protocols_stand_in_the_table_and_the_runs_own_is_marked(primary, marked):
    lines = printed(metrics_of(primary)).splitlines()
    places = {
        word: next(i for i, line in enumerate(lines) if line.strip().startswith(word))
        for word in ("seen items left out", "seen items allowed", "own items, latest first")
    }
    assert sorted(places.values()) == list(places.values())
    assert [line.strip() for line in lines if line.strip().endswith("*")] == [marked]
    assert any("1-5 (1,234)" in line for line in lines)
    for value in ("0.1111", "0.3333", "0.4444", "0.5555"):
        assert any(value in line for line in lines), value
    assert sum(line.strip().startswith("store_engine ") for line in lines) == 2
    text = " ".join(lines)
    assert "34.5% of the targets stand in the user's history" in text
    assert "R@10 *: 0.0222" in text
    assert "80 users" in text
    assert "…" not in text  # it fits 80 columns


def test_what_knows_training_events_alone_says_so_by_itself():
    titles = [recommender_title(f"training_{n}") for n in ("events", "llm_alone", "evidence_alone")]
    suffix = ", of training events"
    assert [title.removesuffix(suffix) for title in titles] == ["the whole", "LLM", "evidence"]


def test_short_rankings_have_fewer_columns():
    short = {"recall@1": 0.5, "mrr": 0.5}
    one = {
        "metrics": short,
        "standard_errors": {},
        "baselines": {"popularity": short},
        "buckets": {"0": {"num_users": 0.0}},
    }
    protocols = {"seen_left_out": one, "seen_allowed": one}
    text = printed(metrics_of(protocols=protocols, **one))
    assert "R@1 " in text
    assert "R@5" not in text
    assert "standard error" not in text


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("[red]shop[/red]", "[red]shop[/red]"),
        ("[/]", "[/]"),
        ("a\x1b[31mb\x9b0mc\nd", "a[31mb0mc d"),
        (":smile:", ":smile:"),
        ("back\\", "back\\"),
    ],
)
def test_a_name_of_a_data_set_is_no_markup(name, shown):
    text = printed(metrics_of(dataset=name), force_terminal=False)
    assert text.lstrip().startswith(f"{shown}, leave-one-out")


def test_a_terminal_of_ascii_gets_ascii():
    printed(metrics_of(dataset="shop"), encoding="ascii")


def test_saved_and_printed_scoring(tmp_path):
    metrics = metrics_of(scoring={"auc": 0.75, "gauc": 0.5, "log_loss": 0.25})
    save_metrics(metrics, tmp_path / "metrics.json")
    assert json.loads((tmp_path / "metrics.json").read_text()) == metrics
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]
    want = "scoring, one random item beside each target: auc 0.7500  gauc 0.5000  log_loss 0.2500"
    assert want in printed(metrics)
