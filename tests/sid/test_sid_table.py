import numpy as np
import pytest

from store_engine.errors import InputError
from store_engine.sid.quantizers.item_clusters import ItemClusters
from store_engine.sid.quantizers.kinds import QUANTIZERS
from store_engine.sid.quantizers.parallel import ParallelQuantizer
from store_engine.sid.quantizers.quantizer import FitSettings
from store_engine.sid.sid_table import SidTable


@pytest.mark.parametrize("kind", [*QUANTIZERS.values(), ItemClusters, None])
def test_table_round_trip(kind, tmp_path):
    vectors = np.random.default_rng(0).standard_normal((60, 2, 8), dtype=np.float32)
    quantizer = None if kind is None else kind.fit(vectors, FitSettings(2, 4, 4, 20, 0))
    codes = np.zeros((60, 2), np.int32) if kind is None else quantizer.encode(vectors)
    ids, sizes = tuple(map(str, range(60))), (4,) * codes.shape[1]
    SidTable(codes, sizes, ids, quantizer).save(tmp_path / "sids.npz")
    loaded = SidTable.load(tmp_path / "sids.npz")
    assert np.array_equal(loaded.sids, codes) and loaded.sids.dtype == np.int32
    assert (loaded.codebook_sizes, loaded.item_ids) == (sizes, ids)
    if kind is None:
        assert loaded.quantizer is None
    else:
        assert type(loaded.quantizer) is kind
        assert np.array_equal(loaded.quantizer.encode(vectors), codes)


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


@pytest.mark.parametrize("kind", [*QUANTIZERS.values(), ItemClusters])
@pytest.mark.parametrize("damage", ["cut", "missing", "not finite"])
def test_refuses_a_quantizer_whose_parts_are_damaged(kind, damage, tmp_path):
    vectors = np.random.default_rng(0).standard_normal((60, 2, 8), dtype=np.float32)
    quantizer, path = kind.fit(vectors, FitSettings(2, 4, 4, 20, 0)), tmp_path / "sids.npz"
    SidTable(np.zeros((1, 2), np.int32), (4, 4), ("a",), quantizer).save(path)
    for name in quantizer.arrays():
        arrays = dict(np.load(path))
        if damage == "missing":
            del arrays[name]
        elif damage == "cut":
            arrays[name] = arrays[name][..., :-1] if "centroids" in name else arrays[name][:-1]
        elif arrays[name].dtype.kind == "f":
            arrays[name].flat[-1] = np.nan
        else:
            continue
        changed = tmp_path / name
        with changed.open("wb") as file:
            np.savez(file, **arrays)
        with pytest.raises(InputError, match="not a readable SID table"):
            SidTable.load(changed)


def test_a_table_of_version_0_1_0_is_read(tmp_path):
    rng, path = np.random.default_rng(0), tmp_path / "sids.npz"
    arrays = {
        "pca_mean": rng.random((2, 8), np.float32),
        "pca_components": rng.random((2, 3, 8), np.float32),
        "centroids": rng.random((2, 4, 3), np.float32),
    }
    of_items = {"codes": np.zeros((1, 2), np.int32), "codebook_sizes": np.array([4, 4])}
    np.savez(path, **of_items, **arrays, item_ids=np.array(["a"]))
    quantizer = SidTable.load(path).quantizer
    assert isinstance(quantizer, ParallelQuantizer)
    assert all(np.array_equal(quantizer.arrays()[name], array) for name, array in arrays.items())


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
