import numpy as np
import pytest

from store_engine.errors import InputError
from store_engine.sid.quantize import fit_quantizer
from store_engine.sid.sid_table import SidTable


def clustered(num_items=60, num_codes=2, hidden=8, clusters=4):
    """Items around well separated centres, another assignment at each position."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, clusters, (num_items, num_codes))
    labels[:clusters] = np.arange(clusters)[:, None]
    centres = 10 * rng.standard_normal((num_codes, clusters, hidden))
    noise = 0.1 * rng.standard_normal((num_items, num_codes, hidden))
    return (centres[np.arange(num_codes), labels] + noise).astype(np.float32), labels


def test_finds_the_clusters_of_every_position_by_itself():
    vectors, labels = clustered()
    codes = fit_quantizer(vectors, 4, pca_dim=4, iterations=20, seed=0).assign(vectors)
    for n in range(2):
        pairs = set(zip(codes[:, n].tolist(), labels[:, n].tolist(), strict=True))
        assert len(pairs) == 4  # codes and clusters are one to one


def test_assigns_the_nearest_centroid():
    vectors, _ = clustered()
    quantizer = fit_quantizer(vectors, 5, pca_dim=3, iterations=5, seed=0)
    projected = quantizer.project(vectors)
    gap = projected[:, :, None] - quantizer.centroids[None]
    np.testing.assert_allclose(quantizer.distances(vectors), (gap**2).sum(-1), atol=1e-2)
    assert (quantizer.assign(vectors) == (gap**2).sum(-1).argmin(-1)).all()


def test_lifted_centroids_lie_among_their_items():
    vectors, _ = clustered()
    quantizer = fit_quantizer(vectors, 4, pca_dim=8, iterations=20, seed=0)
    codes = quantizer.assign(vectors)
    lifted = quantizer.lift()
    for code in range(4):
        mean = vectors[codes[:, 0] == code, 0].mean(0)
        np.testing.assert_allclose(lifted[0, code], mean, atol=1e-3)


def test_is_deterministic():
    vectors, _ = clustered()
    first, second = (fit_quantizer(vectors, 4, 4, 20, seed=3) for _ in range(2))
    for name, array in vars(first).items():
        assert np.array_equal(array, vars(second)[name]), name


def test_rejects_more_codes_than_items():
    vectors, _ = clustered(num_items=5)
    with pytest.raises(InputError, match="got 6 > 5"):
        fit_quantizer(vectors, 6, 4, 20, 0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30], ids=str)
def test_rejects_vectors_that_are_not_finite(bad):
    vectors, _ = clustered()
    vectors[3, 1, 2] = vectors[7, 0, 0] = bad
    with pytest.raises(InputError, match="of 2 of 60 items, first of row 3, are not finite"):
        fit_quantizer(vectors, 4, 4, 20, 0)


def test_table_round_trip(tmp_path):
    vectors, _ = clustered()
    quantizer = fit_quantizer(vectors, 4, 4, 20, 0)
    table = SidTable(quantizer.assign(vectors), (4, 4), tuple(map(str, range(60))), quantizer)
    table.save(tmp_path / "sids.npz")
    loaded = SidTable.load(tmp_path / "sids.npz")
    assert np.array_equal(loaded.sids, table.sids)
    assert (loaded.codebook_sizes, loaded.item_ids) == (table.codebook_sizes, table.item_ids)
    assert np.array_equal(loaded.quantizer.assign(vectors), table.sids)


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
