import os
import socket
import struct
import zlib

import pytest

from store_engine.errors import InputError
from store_engine.files.regular import open_regular, parse_errors, read_regular


def bind_socket(path):
    socket.socket(socket.AF_UNIX).bind(str(path))


@pytest.mark.timeout(10)
@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (os.mkfifo, "a FIFO"),
        (os.mkdir, "a directory"),
        (bind_socket, "a socket"),
        (lambda path: os.symlink("/dev/zero", path), "a device"),
        (lambda path: os.symlink("/dev/tty", path), "a device"),
    ],
    ids=["fifo", "directory", "socket", "endless device", "terminal"],
)
def test_what_is_no_regular_file_is_refused_at_once(make, kind, tmp_path):
    path = tmp_path / "x"
    make(path)
    with pytest.raises(InputError, match=f"^{path}: must be a regular file, is {kind}$"):
        open_regular(path)


@pytest.mark.parametrize(
    "path", ["missing", "missing/x", "a\0b", "a" * 300, "\udcff\ud800"], ids=ascii
)
def test_what_cannot_be_opened_is_one_error(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError):
        open_regular(path)


def test_links_are_followed_and_loops_refused(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "loop").symlink_to("loop")
    with open_regular(tmp_path / "link") as file:
        assert file.read() == b"abc"
    with pytest.raises(InputError, match="loop"):
        open_regular(tmp_path / "loop")


def test_a_file_has_at_most_the_size_of_its_kind(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"abcd")
    assert read_regular(path, 4) == b"abcd"
    with pytest.raises(InputError, match="must be at most 3 bytes, is 4"):
        read_regular(path, 3)
    # a file of the kernel states the size 0 and has content
    with pytest.raises(InputError, match="must be at most 5 bytes, is more"):
        read_regular("/proc/self/status", 5)


@pytest.mark.parametrize(
    "error",
    [
        EOFError(),
        struct.error("short"),
        RecursionError(),
        OverflowError("too large"),
        MemoryError(),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
        KeyError("key"),
        AttributeError("name"),
        zlib.error("bad"),
        OSError(5, "Input/output error"),
        InputError("here: no"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_a_parser_raises_becomes_one_error(error):
    with (
        pytest.raises(InputError, match=r"^here: not a table: ."),
        parse_errors("here", "a table"),
    ):
        raise error


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_an_interruption_is_no_damage(error):
    with pytest.raises(error), parse_errors("here", "a table"):
        raise error
