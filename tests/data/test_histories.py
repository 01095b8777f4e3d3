import numpy as np
import pytest

from store_engine.data.histories import Histories
from store_engine.errors import InputError


def histories(*sequences: list[int]) -> Histories:
    lengths = np.array([0, *map(len, sequences)], dtype=np.int64)
    rows = np.array([row for sequence in sequences for row in sequence], dtype=np.int32)
    return Histories(tuple(f"u{i}" for i in range(len(sequences))), rows, lengths.cumsum())


def test_users_and_events():
    h = histories([3, 1, 4], [], [1, 5])
    assert (h.num_users, h.num_events) == (3, 5)
    assert [h[u].tolist() for u in range(3)] == [[3, 1, 4], [], [1, 5]]
    assert np.shares_memory(h[0], h.rows)


@pytest.mark.parametrize("user", [-1, 3])
def test_no_such_user(user):
    with pytest.raises(IndexError, match=r"in \[0, 3\)"):
        histories([0], [0], [0])[user]


@pytest.mark.parametrize("user_ids", [("a", "bc", "ü"), ("", "x\0", "\n")], ids=["text", "odd"])
def test_save_and_load(tmp_path, user_ids):
    h = Histories(user_ids, np.array([7, 8], dtype=np.int32), np.array([0, 2, 2, 2]))
    h.save(tmp_path / "histories.npz")
    loaded = Histories.load(tmp_path / "histories.npz")
    assert loaded.user_ids == user_ids
    assert loaded.rows.tolist() == [7, 8] and loaded.rows.dtype == np.int32
    assert loaded.offsets.tolist() == [0, 2, 2, 2] and loaded.offsets.dtype == np.int64
    assert [p.name for p in tmp_path.iterdir()] == ["histories.npz"]


def test_save_and_load_nobody(tmp_path):
    histories().save(tmp_path / "histories.npz")
    assert Histories.load(tmp_path / "histories.npz").num_users == 0


@pytest.mark.parametrize(
    ("rows", "offsets", "message"),
    [
        (np.zeros(2, np.int64), np.array([0, 2]), "rows must be 1-d int32"),
        (np.zeros((2, 1), np.int32), np.array([0, 2]), "rows must be 1-d int32"),
        (np.zeros(2, np.int32), np.array([0, 1, 2]), "offsets must be int64"),
        (np.zeros(2, np.int32), np.array([0, 1]), "rise from 0 to 2"),
        (np.zeros(2, np.int32), np.array([1, 2]), "rise from 0 to 2"),
        (np.array([-1, 0], np.int32), np.array([0, 2]), "must not be negative"),
    ],
    ids=["dtype", "ndim", "users", "end", "begin", "negative"],
)
def test_rejects(rows, offsets, message):
    with pytest.raises(ValueError, match=message):
        Histories(("u",), rows, offsets)


def test_rejects_falling_offsets():
    with pytest.raises(ValueError, match="rise"):
        Histories(("u", "v"), np.zeros(1, np.int32), np.array([0, 2, 1]))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 torn", b"text", b"\x80\x04pickle"])
def test_load_rejects_other_files(tmp_path, content):
    path = tmp_path / "histories.npz"
    path.write_bytes(content)
    with pytest.raises(InputError, match="not a histories file"):
        Histories.load(path)


def test_load_rejects_other_arrays(tmp_path):
    np.savez(tmp_path / "histories.npz", rows=np.zeros(1))
    with pytest.raises(InputError, match="not a histories file"):
        Histories.load(tmp_path / "histories.npz")


def test_load_rejects_a_torn_file(tmp_path):
    path = tmp_path / "histories.npz"
    histories([1, 2, 3]).save(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="not a histories file"):
        Histories.load(path)


def test_load_rejects_a_missing_file(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        Histories.load(tmp_path / "histories.npz")


def test_periods_stay_with_their_events(tmp_path):
    h = histories([3, 1, 4], [1, 5])
    h = Histories(h.user_ids, h.rows, h.offsets, np.array([0, 1, 2, 0, 0], dtype=np.int8))
    h.save(tmp_path / "histories.npz")
    loaded = Histories.load(tmp_path / "histories.npz")
    assert loaded.periods.tolist() == [0, 1, 2, 0, 0] and loaded.periods.dtype == np.int8
    assert loaded.of_users(np.array([True, False])).periods.tolist() == [0, 1, 2]
    some = loaded.of_events(np.array([True, False, True, False, True]))
    assert (some.periods.tolist(), some.offsets.tolist()) == ([0, 2, 0], [0, 2, 3])
    assert h.followed_by(histories([1])).periods is None


@pytest.mark.parametrize(
    ("periods", "message"),
    [
        (np.zeros(2, np.int8), "must be int8"),
        (np.zeros(3, np.int64), "must be int8"),
        (np.array([0, 2, 1], np.int8), "must rise"),
        (np.array([0, 1, 3], np.int8), "must rise"),
        (np.array([-1, 0, 0], np.int8), "must rise"),
    ],
    ids=["size", "dtype", "falls", "too high", "negative"],
)
def test_rejects_periods(periods, message):
    with pytest.raises(ValueError, match=message):
        Histories(("a",), np.zeros(3, np.int32), np.array([0, 3]), periods)
