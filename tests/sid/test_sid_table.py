import numpy as np
import pytest

from store_engine.errors import InputError
from store_engine.sid.quantize import ParallelQuantizer, fit_quantizer
from store_engine.sid.sid_table import SidTable


@pytest.mark.parametrize("has_quantizer", [True, False])
def test_table_round_trip(has_quantizer, tmp_path):
    vectors = np.random.default_rng(0).standard_normal((60, 2, 8), dtype=np.float32)
    quantizer = fit_quantizer(vectors, 4, 4, 20, 0)
    codes, ids = quantizer.assign(vectors), tuple(map(str, range(60)))
    table = SidTable(codes, (4, 4), ids, quantizer if has_quantizer else None)
    table.save(tmp_path / "sids.npz")
    loaded = SidTable.load(tmp_path / "sids.npz")
    assert np.array_equal(loaded.sids, codes) and loaded.sids.dtype == np.int32
    assert (loaded.codebook_sizes, loaded.item_ids) == ((4, 4), ids)
    if has_quantizer:
        assert np.array_equal(loaded.quantizer.assign(vectors), codes)
    else:
        assert loaded.quantizer is None


@pytest.mark.parametrize(
    ("shape", "code", "message"),
    [
        ((2, 2), 0, r"sids must be \(num_items, num_levels\) = \(3, 2\), got \(2, 2\)"),
        ((3, 1), 0, "got (3, 1)"),
        ((3, 2), 4, "sids[1, 0] must be in [0, 4), got 4"),
        ((3, 2), -1, "sids[1, 0] must be in [0, 4), got -1"),
    ],
)
def test_refuses_parts_that_do_not_fit(shape, code, message):
    sids = np.zeros(shape, np.int32)
    sids[1, 0] = code
    with pytest.raises(ValueError) as caught:
        SidTable(sids, (4, 4), ("a", "b", "c"))
    assert message.replace("\\", "") in str(caught.value)


def test_refuses_a_quantizer_whose_parts_do_not_fit(tmp_path):
    parts = np.zeros((2, 8)), np.zeros((2, 3, 8)), np.zeros((2, 4, 5))  # pca_dim 3, and 5
    quantizer = ParallelQuantizer(*(part.astype(np.float32) for part in parts))
    path = tmp_path / "sids.npz"
    SidTable(np.zeros((1, 2), np.int32), (4, 4), ("a",), quantizer).save(path)
    with pytest.raises(InputError, match="do not fit each other"):
        SidTable.load(path)


@pytest.mark.parametrize("damage", ["missing", "truncated", "no zip", "code outside"])
def test_damaged_tables_are_refused(damage, tmp_path):
    path = tmp_path / "sids.npz"
    SidTable(np.zeros((3, 2), np.int32), (4, 4), ("a", "b", "c")).save(path)
    if damage == "missing":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(path.read_bytes()[:-30])
    elif damage == "no zip":
        path.write_bytes(b"hello")
    else:
        arrays = dict(np.load(path))
        arrays["codes"][1, 0] = 4
        np.savez(path, **arrays)
    with pytest.raises(InputError, match=r"sids\.npz: not a readable SID table"):
        SidTable.load(path)
