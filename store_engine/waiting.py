"""What is said while a user waits: for what, and for how many seconds by now."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from store_engine.terminal import make_console, printable

_UNSAID_S = 1.0  # what is over by then is not told of
_AGAIN_S = 15.0  # between two lines, where no terminal shows one that moves


@contextmanager
def waiting(what: str) -> Iterator[Callable[[str], None]]:
    """Says on stderr what the block does, if it takes longer than a second.

    On a terminal one line counts the seconds and stays when the block has ended well; elsewhere a
    line comes every 15 seconds.

    Args:
        what: As in "starting Ray".

    Yields:
        Takes how far it is, to be said behind `what`, as in "2 of 4 are ready".
    """
    console, began, done = make_console(stderr=True, soft_wrap=True), time.perf_counter(), ""

    def line() -> str:
        return f"{printable(what)}{', ' * bool(done)}{done}: {time.perf_counter() - began:.0f} s"

    def tell(how_far: str) -> None:
        nonlocal done
        done = how_far

    if console.is_terminal:
        from rich.live import Live
        from rich.spinner import Spinner

        spinner = Spinner("dots")

        def moving() -> Spinner:
            spinner.update(text=line())
            return spinner

        with Live(get_renderable=moving, console=console, refresh_per_second=5, transient=True):
            yield tell
        if time.perf_counter() - began > _UNSAID_S:
            console.print(line())
        return

    is_over = threading.Event()

    def repeat() -> None:
        pause = _UNSAID_S
        while not is_over.wait(pause):
            console.print(line())
            pause = _AGAIN_S

    threading.Thread(target=repeat, daemon=True, name="waiting").start()
    try:
        yield tell
    finally:
        is_over.set()
