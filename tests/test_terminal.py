"""What reaches a terminal."""

import io
import logging
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store_engine.terminal import (
    escape_unencodable_output,
    make_console,
    printable,
    quieten_deepspeed,
)
from store_engine.training.log import TrainLog

_LETTERS = "caf\u00e9 \u6f22\u5b57 \u0e01\u0e33 \U0001f469\u200d\U0001f4bb \xa0|"


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("Red lamp", "Red lamp"),
        ("", ""),
        ("a\x1b[31mred\x1b[0m", "a[31mred[0m"),  # the ESC goes, so nothing is coloured
        ("\x1b]0;title\x07", "]0;title"),
        ("\x1b]8;;http://x\x1b\\link", "]8;;http://x\\link"),
        ("\x9b31mC1\x9d", "31mC1"),
        ("bell\x07, del\x7f, nul\x00, back\x08space", "bell, del, nul, backspace"),
        ("two\nlines\r\nand\ta tab", "two lines  and a tab"),
        ("sep\u2028arated\x85next", "sep arated next"),
        ("left\u202eright\u2066isolated\u2069", "leftrightisolated"),
        ("lone \ud83d surrogate", "lone  surrogate"),
        ("[red]markup[/red]", "[red]markup[/red]"),
        (_LETTERS, _LETTERS),
        (ValueError("an\nerror"), "an error"),
    ],
    ids=ascii,
)  # fmt: skip
def test_printable(text, want):
    assert printable(text) == want


@given(st.text(st.characters()))
def test_nothing_printable_steers_a_terminal(text):
    shown = printable(text)
    assert not [c for c in shown if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")]
    assert printable(shown) == shown


@pytest.mark.parametrize(
    "text", ["[red]x[/red]", "[/]", "[link=http://x]y[/link]", ":smile:", "\\"]
)
def test_a_console_takes_text_as_it_is(text, capsys):
    from rich.table import Table

    make_console().print(text)
    table = Table("head")
    table.add_row(text)
    make_console().print(table)
    out = capsys.readouterr().out
    assert out.splitlines()[0] == text
    assert out.count(text) == 2


def test_a_console_prints_nothing_that_steers_the_terminal(capsys):
    from rich.table import Table

    hostile = "a\x1b[31mb\x9b0m\x07"
    table = Table(hostile, title=hostile)
    table.add_row(hostile)
    make_console().print(hostile, "two\nlines", table)
    out = capsys.readouterr().out
    assert out.startswith("a[31mb0m two\nlines")
    assert out.count("a[31mb0m") == 4
    assert not {"\x1b", "\x9b", "\x07"} & set(out)


@pytest.mark.parametrize(
    ("encoding", "want"),
    [
        ("ascii", r"\u6f22 \xe9 \u2502 \ud83d"),
        ("latin-1", r"\u6f22 é \u2502 \ud83d"),
        ("cp437", r"\u6f22 é │ \ud83d"),
        ("utf-8", r"漢 é │ \ud83d"),
    ],
)
def test_what_an_encoding_lacks_is_written_as_an_escape(encoding, want, monkeypatch):
    streams = [io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2)]
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])
    escape_unencodable_output()
    print("漢 é │ \ud83d")
    make_console(stderr=True, width=60).print("漢 é │ \ud83d")
    for stream in streams:
        stream.flush()
    shown, of_a_console = (s.buffer.getvalue().decode(encoding).strip() for s in streams)
    assert shown == want
    assert of_a_console == want.removesuffix(r" \ud83d")


def test_streams_that_are_none_or_of_another_kind_stay(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    escape_unencodable_output()


@pytest.mark.parametrize("name", ["[red]", "[/]", "\x1b[31mred", "two\nlines"])
def test_a_column_of_the_users_cannot_steer_the_log_of_a_training(name, tmp_path, capsys):
    with TrainLog(tmp_path / "train_log.jsonl", "tokenizer", 0, 1, is_silent=False) as log:
        log.step(1, {"loss": 1.0, name: 2.0, "tokens_per_s": 3.0, "wall_s": 1.0})
    out = capsys.readouterr().out
    assert f"{printable(name)} 2.000" in out
    assert "\x1b" not in out
    assert out.count("\n") == 1


def test_only_deepspeeds_word_on_the_missing_gpu_is_kept_back(caplog):
    logger = logging.getLogger("DeepSpeed")
    before = list(logger.filters)
    quieten_deepspeed()
    with caplog.at_level("WARNING", logger="DeepSpeed"):
        logger.warning("Setting accelerator to CPU. If you have GPU ...")
        logger.warning("another thing")
    logger.filters[:] = before
    assert [record.message for record in caplog.records] == ["another thing"]
