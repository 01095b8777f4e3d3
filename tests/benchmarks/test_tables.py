import csv
import os
import subprocess
import sys

import pytest

from benchmarks import tables
from benchmarks.measuring.harness import COLUMNS
from benchmarks.tables import NOT_MEASURED, PAGES, ROOT, TABLES, Figures, fill, number, times


@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_what_make_tables_writes(page):
    text = (ROOT / page).read_text()
    assert fill(text) == text, "run `make tables`"


def test_the_pages_have_every_table():
    text = "".join((ROOT / page).read_text() for page in PAGES)
    names = [name for name in TABLES if name != "results/tiny"]  # nobody's result
    assert [f"<!-- table:{name} -->" in text for name in names] == [True] * len(names)


def test_make_knows_the_command():
    env = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    done = subprocess.run(
        ["make", "--dry-run", "tables"], cwd=ROOT, env=env, capture_output=True, text=True
    )
    assert "python benchmarks/tables.py" in done.stdout, done.stderr


@pytest.fixture
def write(tmp_path):
    """Writes result files: (provider, case, metric, p50, commit) of each row."""
    tables.read.cache_clear()

    def write(benchmark, *rows):
        with (tmp_path / f"{benchmark}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            for provider, case, metric, p50, commit in rows:
                row = dict.fromkeys(COLUMNS, "x") | {"provider": provider, "case": case}
                writer.writerow(row | {"metric": metric, "p50": p50, "commit": commit})
        return tmp_path

    yield write
    tables.read.cache_clear()


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
    _, rule, step, decode = TABLES["trie"](folder).splitlines()
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
    lines = TABLES["train"](write("train", *rows)).splitlines()
    assert lines[2] == "| transformers, padded | 100 | 2.0 GiB |"
    assert lines[4] == "| ours | 2,000 (20 x, 4.0 x) | 2.0 GiB |"


@pytest.mark.parametrize("name", sorted(TABLES.keys() - {"roofline"}))  # it is computed
def test_what_was_never_measured_is_said(write, tmp_path, name):
    assert TABLES[name](tmp_path) == "Not measured yet."


def test_only_the_tables_change(write, tmp_path):
    text = "before\n<!-- table:decode -->\nold\n<!-- /table -->\nafter\n"
    want = "before\n<!-- table:decode -->\nNot measured yet.\n<!-- /table -->\nafter\n"
    assert fill(text, tmp_path) == want
    assert fill(want, tmp_path) == want


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!-- table:decod -->\n<!-- /table -->", "no table 'decod', there are decode, trie"),
        ("<!-- table:decode -->\n", "needs a <!-- /table -->"),
        ("<!-- /table -->\n", "needs a <!-- /table -->"),
    ],
    ids=["unknown", "no-end", "no-begin"],
)
def test_a_marker_that_is_wrong_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        fill(text)


@pytest.mark.parametrize(
    ("x", "want"),
    [(0.0921, "0.092"), (0.7964, "0.796"), (1.372, "1.37"), (10.114, "10.1"), (3649.4, "3,649")],
)
def test_figures_have_three_digits(x, want):
    assert number(x) == want


@pytest.mark.parametrize(("x", "want"), [(0.98, "1.0 x"), (8.66, "8.7 x"), (26.2, "26 x")])
def test_ratios_are_short(x, want):
    assert times(x) == want


def test_a_case_that_was_not_measured_has_no_figures():
    assert Figures.find([], CASE, "step_ms").by_provider == {}
    assert Figures({"ours": 1.0}).cell("transformers") == NOT_MEASURED


def test_check_says_whether_a_page_would_change():
    command = [sys.executable, str(ROOT / "benchmarks" / "tables.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "all is as it would be written\n")
