"""docs/config.md: every key of a config, from the dataclasses and their comments.

python -m store_engine.config.reference > docs/config.md
"""

import dataclasses
import inspect
import re
from typing import Any, get_args

from store_engine.config.run_config import Config
from store_engine.config.settings import is_runtime, range_of
from store_engine.config.toml_file import to_toml

_HEAD = """\
# All keys of a config

A config is a TOML file (`--config FILE`), or several: of two that state a key the later one counts,
so that a preset (a method, `configs/presets/*.toml`) can stand behind a data set's file. Single
keys are given as `section.key=value`. What is not stated has its default. A number outside of its
range, an unknown key and a wrong type are refused.

*identity*: the key makes the run what it is; `--resume` refuses another value. *run-time*: it may
be changed at any time; `--resume` takes the new value.

This page is made from `store_engine/config/sections.py`:
`python -m store_engine.config.reference > docs/config.md`.

| key | type | default | range | kind | |
|---|---|---|---|---|---|
| `run_dir` | text | `"runs/run"` | | run-time | where everything goes |
"""


def reference() -> str:
    """Writes the page, in Markdown."""
    page = _HEAD
    for section in dataclasses.fields(Config):
        if not dataclasses.is_dataclass(section.type):
            continue
        page += f"\n## {section.name}\n\n{section.type.__doc__}\n\n"
        page += "| key | type | default | range | kind | |\n|---|---|---|---|---|---|\n"
        comments = _comments(section.type)
        for declared in dataclasses.fields(section.type):
            bounds = range_of(declared)
            cells = [
                f"`{section.name}.{declared.name}`",
                _type_in_words(declared.type),
                f"`{to_toml(declared.default)}`",
                "" if bounds is None else f"{bounds.low:g} to {bounds.high:g}",
                "run-time" if is_runtime(declared) else "identity",
                comments.get(declared.name, ""),
            ]
            page += f"| {' | '.join(cells)} |\n"
    return page


def _comments(section: Any) -> dict[str, str]:
    """The comment behind each field, or on the lines before it."""
    comments, above = {}, ""
    for line in inspect.getsource(section).splitlines():
        if found := re.match(r"    (\w+): [^#]*?(?:  # (.*))?$", line):
            comments[found[1]] = found[2] or above
        before = re.match(r"    # (.*)$", line)
        above = f"{above} {before[1]}".strip() if before else ""
    return comments


def _type_in_words(hint: Any) -> str:
    if hint is tuple or getattr(hint, "__origin__", None) is tuple:
        return "list of text"
    if choices := get_args(hint):
        return "one of " + ", ".join(f"`{to_toml(choice)}`" for choice in choices)
    return {str: "text", int: "integer", float: "number", bool: "`true` or `false`"}[hint]


if __name__ == "__main__":
    print(reference(), end="")
