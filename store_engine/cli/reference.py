"""docs/cli.md: every verb with its arguments, from the parsers.

python -m store_engine.cli.reference > docs/cli.md
"""

import argparse
import textwrap

from store_engine.cli.main import STATUSES, VERBS, parser_of

_HEAD = """\
# The command line

    store-engine VERB --help          # what a verb takes, with examples
    store-engine completion bash      # completes verbs, options and files; also zsh and fish

Where a verb has a result, `--json` prints it as JSON on stdout and nothing else; progress and
errors go to stderr. A run directory is the first argument or `--run DIR`. `section.key=value`
changes one of [all keys of a config](config.md).

This page is made from the parsers: `python -m store_engine.cli.reference > docs/cli.md`.

## Exit status

| status | meaning |
|---|---|
"""


def reference() -> str:
    """Writes the page, in Markdown."""
    page = _HEAD
    page += "".join(f"| {status} | {_cell(what)} |\n" for status, what in STATUSES.items())
    page += "\n## Verbs\n\n| verb | |\n|---|---|\n"
    page += "".join(f"| [{verb}](#{verb}) | {what} |\n" for verb, what in VERBS.items())
    for verb in VERBS:
        parser = parser_of(verb)
        page += f"\n### {verb}\n\n{_described(parser)}\n\n| argument | |\n|---|---|\n"
        for action in parser._actions:
            if action.dest != "help" and action.help != argparse.SUPPRESS:
                page += f"| {_named(action)} | {_help(action)} |\n"
    return page


def _described(parser: argparse.ArgumentParser) -> str:
    """The description: sentences as text, command lines as code."""
    text = (parser.description or "").strip()
    if parser.epilog:
        text += f"\n\n{parser.epilog.strip()}"
    parts = []
    for part in text.split("\n\n"):
        lines = part.splitlines()
        is_code = lines[0].startswith(("store-engine ", "deepspeed ", "|", " "))
        parts.append(textwrap.indent(part, "    ") if is_code else part)
    return "\n\n".join(parts)


def _named(action: argparse.Action) -> str:
    takes = action.nargs != 0
    shown = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
    if action.choices is not None:
        shown = ", ".join(map(str, action.choices))
    if not action.option_strings:
        return f"`{action.metavar or action.dest}`"
    names = ", ".join(f"`{name}`" for name in action.option_strings)
    return f"{names} {shown}" if takes else names


def _help(action: argparse.Action) -> str:
    return _cell(" ".join((action.help or "").split()).replace("%%", "%"))  # argparse's escape


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    print(reference(), end="")
