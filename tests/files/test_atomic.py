import os
import threading

import pytest

from store_engine.errors import InputError
from store_engine.files import atomic
from store_engine.files.atomic import atomic_open, is_temporary, sync_tree


def test_the_file_appears_when_the_block_has_ended(tmp_path):
    path = tmp_path / "file"
    with atomic_open(path) as file:
        file.write(b"new")
        assert not path.exists()
        (temporary,) = os.listdir(tmp_path)
        assert is_temporary(temporary)
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["file"]
    assert not is_temporary("file")


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, OSError])
def test_a_block_that_raises_leaves_everything_as_it_was(error, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(error), atomic_open(path) as file:
        file.write(b"new")
        raise error
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_content_is_on_the_disk_before_the_name_and_the_name_before_the_end(tmp_path, monkeypatch):
    order = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (order.append("fsync"), fsync(handle)))
    monkeypatch.setattr(os, "replace", lambda a, b: (order.append("replace"), replace(a, b)))
    with atomic_open(tmp_path / "file") as file:
        file.write(b"new")
    assert order == ["fsync", "replace", "fsync"]


def test_a_planted_link_is_not_followed(tmp_path, monkeypatch):
    monkeypatch.setattr(atomic.secrets, "token_hex", lambda size: "0" * 2 * size)
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    (tmp_path / f".{'0' * 16}.tmp").symlink_to(victim)
    with pytest.raises(FileExistsError), atomic_open(tmp_path / "file") as file:
        file.write(b"new")
    assert victim.read_bytes() == b"mine"


def test_a_link_is_replaced_and_not_its_target(tmp_path):
    (tmp_path / "target").write_bytes(b"mine")
    (tmp_path / "link").symlink_to("target")
    with atomic_open(tmp_path / "link") as file:
        file.write(b"new")
    assert (tmp_path / "target").read_bytes() == b"mine"
    assert not (tmp_path / "link").is_symlink()


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo], ids=["directory", "fifo"])
def test_what_is_no_file_is_not_replaced(make, tmp_path):
    make(tmp_path / "x")
    with pytest.raises(InputError, match="x: cannot be replaced"), atomic_open(tmp_path / "x"):
        pass
    with pytest.raises(InputError, match="cannot be replaced"), atomic_open("/dev/null"):
        pass
    assert os.listdir(tmp_path) == ["x"]


def test_two_writers_do_not_mix(tmp_path):
    def write(letter):
        for _ in range(20):
            with atomic_open(tmp_path / "file") as file:
                for _ in range(10):
                    file.write(letter * 1000)

    writers = [threading.Thread(target=write, args=(letter,)) for letter in (b"a", b"b")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert (tmp_path / "file").read_bytes() in (b"a" * 10_000, b"b" * 10_000)
    assert os.listdir(tmp_path) == ["file"]


def test_the_longest_name_can_be_written(tmp_path):
    path = tmp_path / ("n" * 255)
    with atomic_open(path) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new"


def test_a_tree_is_synced_file_by_file(tmp_path, monkeypatch):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").write_bytes(b"x")
    (tmp_path / "a" / "dangling").symlink_to("nowhere")
    calls = []
    monkeypatch.setattr(os, "fsync", calls.append)
    sync_tree(tmp_path)
    assert len(calls) == 4  # a file and three folders
