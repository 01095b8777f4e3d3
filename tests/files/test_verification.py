import hashlib
import os

import pytest

from store_engine.errors import InputError
from store_engine.files import verification
from store_engine.files.verification import VerifiedFiles


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.setattr(verification, "_LARGE", 3)
    monkeypatch.setattr(verification, "_SETTLED_NS", -1)
    path = tmp_path / "file"
    path.write_bytes(b"whole")
    return path


@pytest.fixture
def reads(monkeypatch):
    reads = []
    real = verification.sha256
    monkeypatch.setattr(verification, "sha256", lambda path: reads.append(path) or real(path))
    return reads


DIGEST = hashlib.sha256(b"whole").hexdigest()


def test_a_large_file_is_read_once(path, reads):
    for _ in range(3):
        assert VerifiedFiles(path.with_name("seen.json")).matches(path, DIGEST)
    assert len(reads) == 1
    assert VerifiedFiles(path.with_name("seen.json")).matches(path, DIGEST, always=True)
    assert not VerifiedFiles(path.with_name("seen.json")).matches(path, "0" * 64)
    assert len(reads) == 3


def test_a_small_file_is_always_read(path, reads):
    path.write_bytes(b"ab")
    digest = hashlib.sha256(b"ab").hexdigest()
    for _ in range(3):
        assert VerifiedFiles(path.with_name("seen.json")).matches(path, digest)
    assert len(reads) == 3


def test_a_file_that_has_just_changed_is_not_remembered(path, reads, monkeypatch):
    monkeypatch.setattr(verification, "_SETTLED_NS", 10**15)
    for _ in range(2):
        assert VerifiedFiles(path.with_name("seen.json")).matches(path, DIGEST)
    assert len(reads) == 2


def rewritten(path):
    path.write_bytes(b"WHOLE")


def rewritten_in_secret(path):
    status = path.stat()
    path.write_bytes(b"WHOLE")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def replaced(path):
    path.with_name("other").write_bytes(b"WHOLE")
    os.replace(path.with_name("other"), path)


def longer(path):
    path.write_bytes(b"whole and more")


@pytest.mark.parametrize("change", [rewritten, rewritten_in_secret, replaced, longer])
def test_every_change_is_seen(change, path):
    seen = VerifiedFiles(path.with_name("seen.json"))
    assert seen.matches(path, DIGEST)
    change(path)
    assert not seen.matches(path, DIGEST)


def test_where_nothing_can_be_remembered_files_are_read_each_time(path, reads):
    for _ in range(2):
        assert VerifiedFiles(path.parent / "missing" / "seen.json").matches(path, DIGEST)
    assert len(reads) == 2


def test_a_missing_file_is_named(path):
    with pytest.raises(InputError, match="gone: No such file"):
        VerifiedFiles(path).matches(path.with_name("gone"), DIGEST)
