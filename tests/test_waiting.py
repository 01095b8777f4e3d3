import io
import time

import pytest

from store_engine import waiting as module
from store_engine.terminal import make_console
from store_engine.waiting import waiting


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def at_once(monkeypatch):
    monkeypatch.setattr(module, "_UNSAID_S", 0.01)


def test_what_is_short_is_not_told(capsys):
    with waiting("starting"):
        pass
    assert capsys.readouterr() == ("", "")


def test_lines_come_calmly_with_how_far_it_is(at_once, monkeypatch, capsys):
    monkeypatch.setattr(module, "_AGAIN_S", 0.2)
    with waiting("starting\x1b[31m") as tell:
        time.sleep(0.1)
        tell("1 of 2 are ready")
        time.sleep(0.5)
    said = capsys.readouterr()
    first, *others = said.err.splitlines()
    assert first == "starting[31m: 0 s"
    assert 1 <= len(others) <= 3
    assert set(others) <= {f"starting[31m, 1 of 2 are ready: {n} s" for n in (0, 1)}
    assert said.out == ""


def test_nothing_comes_after_the_end(at_once, monkeypatch, capsys):
    monkeypatch.setattr(module, "_AGAIN_S", 0.05)
    with pytest.raises(OSError), waiting("starting"):
        time.sleep(0.1)
        raise OSError
    capsys.readouterr()
    time.sleep(0.2)
    assert capsys.readouterr().err == ""


def test_on_a_terminal_one_line_moves_and_stays(at_once, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    assert make_console(stderr=True).is_terminal
    with waiting("starting") as tell:
        time.sleep(0.3)
        tell("2 of 2 are ready")
    last = terminal.getvalue().rstrip("\n").rpartition("\n")[2]
    assert last.endswith("starting, 2 of 2 are ready: 0 s")
    assert "\x1b[?25h" in terminal.getvalue()  # the cursor is there again
    assert terminal.getvalue().count("\n") <= 2


def test_on_a_terminal_what_failed_is_not_told_as_done(at_once, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with pytest.raises(OSError), waiting("starting"):
        time.sleep(0.05)
        raise OSError
    assert not terminal.getvalue().endswith("starting: 0 s\n")
