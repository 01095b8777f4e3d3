import csv

import pytest

from benchmarks.measuring.harness import COLUMNS
from benchmarks.tabulating.figures import NOT_MEASURED
from benchmarks.tabulating.speed_tables import train_table, trie_table


@pytest.fixture
def write(tmp_path):
    """Writes result files: (provider, case, metric, p50, commit) of each row."""

    def write(benchmark, *rows):
        with (tmp_path / f"{benchmark}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            for provider, case, metric, p50, commit in rows:
                row = dict.fromkeys(COLUMNS, "x") | {"provider": provider, "case": case}
                writer.writerow(row | {"metric": metric, "p50": p50, "commit": commit})
        return tmp_path

    return write


CASE = "n=1e6,codes=uniform,batch=32,beam=20"


def test_ratios_compare_figures_of_one_run(write):
    folder = write(
        "trie",
        ("ours", CASE, "step_ms", 2.0, "old"),
        ("unconstrained", CASE, "step_ms", 4.0, "old"),
        ("csr_torch", CASE, "step_ms", 9.0, "old"),
        ("ours", CASE, "step_ms", 0.1, "new"),
        ("csr_torch", CASE, "step_ms", 0.8, "new"),
        ("csr_torch_one_topk", CASE, "step_ms", 0.35, "new"),
        ("ours", CASE, "decode_ms", 0.4, "new"),
        ("csr_torch", CASE, "decode_ms", 2.0, "new"),
        ("unconstrained", CASE, "step_ms", 7.0, "only peers"),
    )
    _, rule, step, decode = trie_table(folder).splitlines()
    assert rule.replace(" ", "") == "|---" * 6 + "|"
    unmeasured = " | ".join([NOT_MEASURED] * 2)
    assert step == (
        f"| uniform codes, a step | 0.100 | {unmeasured} | 0.350 (3.5 x) | {NOT_MEASURED} |"
    )
    assert decode.startswith("| uniform codes, a decode of four | 0.400 |")
    assert "2.00 (5.0 x)" in decode


def test_more_tokens_are_more_times(write):
    case = "hidden=576,layers=6,beauty=4x64,bfloat16"
    rates = {"transformers": 100.0, "transformers_bucketed": 500.0, "ours": 2000.0}
    rows = [(name, case, "tokens_per_s", rate, "a") for name, rate in rates.items()]
    rows += [(name, case, "extra_peak_mib", 2048.0, "a") for name in rates]
    lines = train_table(write("train", *rows)).splitlines()
    assert lines[2] == "| transformers, padded | 100 | 2.0 GiB |"
    assert lines[4] == "| ours | 2,000 (20 x, 4.0 x) | 2.0 GiB |"
