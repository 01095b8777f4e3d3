import os
import signal
import subprocess
import sys

import pytest

from store_engine.errors import InputError
from store_engine.files.lock import FileLock, lock_owner

HOLD = """
import sys, time
from pathlib import Path
from store_engine.files.lock import FileLock
lock = FileLock.acquire(Path(sys.argv[1]), "the run")
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "lock"


def test_a_lock_is_held_by_one_and_says_by_whom(path):
    assert lock_owner(path) is None
    lock = FileLock.acquire(path, "the run")
    assert lock_owner(path).startswith(f"process {os.getpid()} on ")
    with pytest.raises(InputError, match=f"the run: in use by process {os.getpid()} on .*lock"):
        FileLock.acquire(path, "the run")
    lock.release()
    lock.release()
    assert lock_owner(path) is None
    FileLock.acquire(path, "the run").release()


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM], ids=str)
def test_the_end_of_a_process_gives_its_lock_back(path, signum):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(InputError, match=f"in use by process {holder.pid} on "):
        FileLock.acquire(path, "the run")
    holder.send_signal(signum)
    holder.wait()
    holder.stdout.close()
    FileLock.acquire(path, "the run").release()


def test_a_lock_that_is_forgotten_is_given_back(path):
    FileLock.acquire(path, "the run")
    FileLock.acquire(path, "the run").release()


def test_a_lock_whose_file_was_replaced_is_taken_anew(path, monkeypatch):
    """The holder removed the folder, and another one stands there, between open and lock."""
    real = os.lstat
    looks = []

    def lstat(name):
        if not looks:
            path.unlink()
            path.write_bytes(b"")
        looks.append(name)
        return real(name)

    monkeypatch.setattr(os, "lstat", lstat)
    lock = FileLock.acquire(path, "the run")
    assert len(looks) == 2
    assert path.read_text().startswith(str(os.getpid()))
    lock.release()


def test_a_planted_link_is_not_followed(path, tmp_path):
    (tmp_path / "victim").write_text("mine")
    path.symlink_to("victim")
    with pytest.raises(OSError, match="symbolic links"):
        FileLock.acquire(path, "the run")
    assert (tmp_path / "victim").read_text() == "mine"


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe", b"abc", b"12", b"12 \x1b[31mhost"], ids=ascii
)
def test_what_stands_in_a_lock_is_not_believed(path, content):
    lock = FileLock.acquire(path, "the run")
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"in use by (another process|process 12)") as error:
        FileLock.acquire(path, "the run")
    assert str(error.value).isprintable()
    lock.release()
