"""What may reach a terminal: text that cannot steer it, in an encoding that it has.

Item ids, titles, paths and names of columns are the user's data. Printed as they are, an ESC in a
title can recolour or rewrite the screen, `[red]` is taken for markup, and a letter that the
terminal's encoding lacks ends the program.
"""

import logging
import sys
import unicodedata
from io import TextIOWrapper
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.console import Console
    from rich.text import Text

Step = TypeVar("Step")

# letters that break a line, and what else is invisible and no letter: controls, lone surrogates
_BREAKS = "\t\n\v\f\r\x85\u2028\u2029"
_CATEGORIES = ("Cc", "Cs")
# marks, embeddings, overrides and isolates, which reorder what follows them on the line
_BIDIRECTIONAL = "\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


def printable(value: object) -> str:
    """Returns the text of `value` on one line, without what would steer a terminal.

    Tabs and line breaks become spaces. Other control characters (C0, DEL, C1), lone
    surrogates and marks of writing direction vanish; what followed an ESC stays, as plain letters.

    Args:
        value: Anything; `str(value)` is shown.
    """
    text = str(value)
    if text.isprintable():
        return text
    return "".join(_shown(character) for character in text)


def quieten_deepspeed() -> None:
    """Keeps back DeepSpeed's warning that there is no GPU; it comes when it is imported."""
    logging.getLogger("DeepSpeed").addFilter(
        lambda record: not str(record.msg).startswith("Setting accelerator to CPU")
    )


def make_console(
    *, stderr: bool = False, width: int | None = None, soft_wrap: bool = False
) -> "Console":
    """Makes a console that takes text as it is: no markup, no emoji codes, no highlighting.

    Lines that it prints are made `printable`, also in the cells of a table.

    Args:
        stderr: Print to stderr instead of stdout.
        width: Columns; by default those of the terminal.
        soft_wrap: Leave long lines to the terminal.
    """
    # here, because `store-engine --help` needs no rich and should not wait for it
    from rich.console import Console

    class PlainConsole(Console):
        def render_str(self, text: str, **options: Any) -> "Text":
            """Renders a string without what would steer the terminal."""
            return super().render_str("\n".join(map(printable, text.split("\n"))), **options)

        def on_broken_pipe(self) -> None:
            """Leaves it to the caller, instead of ending the process."""
            raise BrokenPipeError

    return PlainConsole(
        stderr=stderr,
        width=width,
        soft_wrap=soft_wrap,
        markup=False,
        emoji=False,
        highlight=False,
    )


def tracked(steps: "Sequence[Step]", what: str, *, is_silent: bool = False) -> "Iterable[Step]":
    """Walks over steps of long work behind a progress bar, where stderr is a terminal.

    Args:
        steps: What is walked over.
        what: What the work is, as in "evaluation".
        is_silent: Show nothing, as a rank does beside the first.
    """
    from rich.progress import track

    console = make_console(stderr=True)  # stdout is for the result alone
    is_silent = is_silent or not console.is_terminal
    return track(steps, what, transient=True, console=console, disable=is_silent)


def escape_unencodable_output() -> None:
    r"""Lets stdout and stderr write letters that their encoding lacks as escapes (`\xe9`)."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # not so in a notebook; None without a terminal
            stream.reconfigure(errors="backslashreplace")


def _shown(character: str) -> str:
    if character in _BREAKS:
        return " "
    if character in _BIDIRECTIONAL or unicodedata.category(character) in _CATEGORIES:
        return ""
    return character
