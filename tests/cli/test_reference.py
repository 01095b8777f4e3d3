from pathlib import Path

from store_engine.cli.main import STATUSES, VERBS, parser_of
from store_engine.cli.reference import reference


def test_the_page_is_what_the_parsers_say():
    page = Path(__file__).parents[2] / "docs" / "cli.md"
    made = reference()
    assert page.read_text(encoding="utf-8") == made, "python -m store_engine.cli.reference"


def test_every_verb_option_and_status_is_named():
    page = reference()
    for verb in VERBS:
        section = page.split(f"\n### {verb}\n")[1].split("\n### ")[0]
        for action in parser_of(verb)._actions:
            if action.dest != "help":
                assert all(f"`{name}`" in section for name in action.option_strings), action.dest
    assert all(f"| {status} | " in page for status in STATUSES)
