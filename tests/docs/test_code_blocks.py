"""Every Python and shell block of the pages runs, or says in its page why it does not.

A page's Python blocks are one program, in the page's order; `BEFORE` gives what a page takes for
granted. Each line of a ```bash block must end with status 0. A block
that cannot run on a small run stands behind a line `<!-- not run: the reason -->`.
"""

import json
import re
import shlex
import subprocess
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest

from store_engine.cli.main import VERBS, main

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").glob("*.md"))
BLOCK = re.compile(
    r"(?:<!-- not run: (?P<reason>[^>]+) -->\n)?^```(?P<language>\w+)\n(?P<code>.*?)^```$",
    re.M | re.S,
)
MOST_NOT_RUN = 8  # of all pages
# what a page's first Python block takes for granted
BEFORE = {
    "decoding.md": """
import numpy as np
in_stock_ids = adult_ids = dog_food_ids = ["1", "2", "3", "4"]
in_stock_ids = in_stock_ids + ["5", "6", "181"]
histories = [["50"], ["181", "50"]]
""",
}


class Block(NamedTuple):
    line: int
    language: str
    code: str
    reason: str | None


def blocks(page):
    text = page.read_text(encoding="utf-8")
    return [
        Block(text[: m.start("code")].count("\n") + 1, m["language"], m["code"], m["reason"])
        for m in BLOCK.finditer(text)
    ]


def runnable(page, language):
    return [b for b in blocks(page) if b.language == language and b.reason is None]


def pages_with(language):
    pages = [page for page in PAGES if runnable(page, language)]
    if language == "bash":  # test_quickstart.py runs that page's
        pages = [page for page in pages if page.name != "quickstart.md"]
    return [pytest.param(page, id=page.name) for page in pages]


@pytest.mark.parametrize("page", pages_with("python"))
def test_python(page, desk, monkeypatch):
    monkeypatch.chdir(desk)
    names = {"__name__": "docs"}
    exec(BEFORE.get(page.name, ""), names)
    for block in runnable(page, "python"):
        source = "\n" * block.line + block.code  # so that a traceback names the page's line
        exec(compile(source, str(page), "exec"), names)


@pytest.mark.slow
@pytest.mark.parametrize("page", pages_with("bash"))
def test_shell(page, desk, desk_variables, monkeypatch, capfd):
    monkeypatch.chdir(desk)
    for block in runnable(page, "bash"):
        for line in block.code.replace("\\\n", " ").strip().split("\n"):
            status = _status(line, desk_variables)
            said = capfd.readouterr()
            assert status == 0, f"{page}:{block.line}: {line}\n{(said.out + said.err)[-3000:]}"


def _status(line, variables):
    """Runs a line; verbs that train nothing in this process, which has imported all they need."""
    if line.startswith("store-engine ") and not line.startswith("store-engine train"):
        return main(shlex.split(line, comments=True)[1:])
    script = ["bash", "-euo", "pipefail", "-c", line]
    return subprocess.run(script, env=variables, timeout=600).returncode


def test_few_blocks_are_not_run_and_each_says_why():
    skipped = [(page.name, b.line) for page in PAGES for b in blocks(page) if b.reason]
    assert len(skipped) <= MOST_NOT_RUN, skipped
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        said, meant = text.count("<!-- not run:"), sum(b.reason is not None for b in blocks(page))
        assert said == meant, f"{page}: a reason that stands before no block"


@pytest.mark.parametrize("language", ["toml", "json", "yaml"])
def test_blocks_of_data_are_well_formed(language):
    yaml = pytest.importorskip("yaml")
    parse = {
        "toml": tomllib.loads,
        "json": json.loads,
        "yaml": lambda text: list(yaml.safe_load_all(text)),
    }[language]
    found = [(p, b) for p in PAGES for b in blocks(p) if b.language == language]
    for page, block in found:
        try:
            parse(block.code)
        except ValueError as error:
            raise AssertionError(f"{page}:{block.line}: {error}") from error
    assert found


def test_every_verb_that_the_pages_name_exists():
    texts = [page.read_text(encoding="utf-8") for page in (*PAGES, ROOT / "README.md")]
    named = {verb for text in texts for verb in re.findall(r"store-engine ([a-z][a-z-]*)", text)}
    assert named <= {*VERBS, "help"}
