"""What every quantiser promises, whatever its kind."""

import numpy as np
import pytest

from store_engine.errors import InputError
from store_engine.sid.quantizers.item_clusters import ItemClusters
from store_engine.sid.quantizers.kinds import ARRAY_FORMS, QUANTIZERS, quantizer_from
from store_engine.sid.quantizers.quantizer import FitSettings

KINDS = pytest.mark.parametrize("kind", QUANTIZERS.values(), ids=QUANTIZERS)
SETTINGS = FitSettings(num_codes=2, codebook_size=8, pca_dim=6, iterations=10, seed=0)


def normal(num_items, num_vectors=2, dim=10, seed=0):
    shape = (num_items, num_vectors, dim)
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.fixture(scope="module")
def fitted():
    """Of each kind one that is fitted to `normal(300)`."""
    return {kind: kind.fit(normal(300), SETTINGS) for kind in QUANTIZERS.values()}


@KINDS
def test_codes_are_those_of_the_least_distances(kind, fitted):
    for vectors in normal(300), normal(7, seed=1):  # old items, and new ones
        codes, distances = fitted[kind].encode(vectors), fitted[kind].distances(vectors)
        assert (codes.dtype, codes.shape) == (np.int32, (len(vectors), 2))
        assert distances.shape == (len(vectors), 2, 8)
        assert (codes == distances.argmin(-1)).all()
        alone = np.concatenate([fitted[kind].encode(one[None]) for one in vectors[:7]])
        assert (alone == codes[:7]).all()


@KINDS
def test_every_code_is_in_use(kind, fitted):
    codes = fitted[kind].encode(normal(300))
    assert all(len(np.unique(codes[:, level])) == 8 for level in range(2))


@KINDS
def test_the_same_seed_gives_the_same(kind, fitted):
    again = kind.fit(normal(300), SETTINGS).arrays()
    for name, array in fitted[kind].arrays().items():
        assert np.array_equal(again[name], array), name


@KINDS
def test_what_is_saved_is_what_is_loaded(kind, fitted):
    arrays = fitted[kind].arrays()
    assert arrays.keys() <= ARRAY_FORMS.keys()
    loaded = quantizer_from(arrays)
    assert type(loaded) is kind
    assert (loaded.encode(normal(300)) == fitted[kind].encode(normal(300))).all()
    assert quantizer_from({"codes": np.zeros(3)}) is None


@KINDS
@pytest.mark.parametrize(("num_items", "codebook_size"), [(1, 1), (5, 1), (5, 5), (9, 4)], ids=str)
def test_few_items_and_equal_ones_have_codes(kind, num_items, codebook_size):
    settings = SETTINGS._replace(codebook_size=codebook_size)
    for vectors in normal(num_items), np.ones((num_items, 2, 10), np.float32):
        codes = kind.fit(vectors, settings).encode(vectors)
        assert codes.min() >= 0
        assert codes.max() < codebook_size


@KINDS
def test_wrong_input_is_refused(kind):
    with pytest.raises(InputError, match="got 8 > 7"):
        kind.fit(normal(7), SETTINGS)
    vectors = normal(9)
    vectors[3, 1, 2] = np.inf
    with pytest.raises(InputError, match="of 1 of 9 items, first of row 3"):
        kind.fit(vectors, SETTINGS)


@pytest.mark.parametrize("name", ["residual", "rq_vae", "opq"])
def test_one_vector_per_item_does(name):
    """Tight groups of items: none shares its codes with another."""
    truth = np.arange(240) % 12
    vectors = 5 * normal(12, 1)[truth] + 0.01 * normal(240, 1, seed=1)
    codes = QUANTIZERS[name].fit(vectors, SETTINGS._replace(pca_dim=10)).encode(vectors)
    together = np.unique(np.column_stack([codes, truth]), axis=0)
    assert len(together) == len(np.unique(codes, axis=0)) >= 12


def test_a_residual_items_lifted_codes_add_up_to_the_item():
    vectors = normal(64, 1)
    quantizer = QUANTIZERS["residual"].fit(vectors, FitSettings(3, 32, 10, 20, 0))
    codes, lifted = quantizer.encode(vectors), quantizer.lift()
    rebuilt = sum(lifted[level, codes[:, level]] for level in range(3))
    assert ((rebuilt - vectors[:, 0]) ** 2).mean() < 0.01


def test_the_rotation_shares_out_what_there_is_to_say():
    """All the spread is in the first half of the dimensions: halves would waste a code."""
    spread = np.r_[np.full(4, 10.0), np.full(4, 0.1)].astype(np.float32)
    vectors = normal(600, 1, 8) * spread
    settings = FitSettings(2, 16, 8, 20, 0)
    quantizer = QUANTIZERS["opq"].fit(vectors, settings)
    codes, lifted = quantizer.encode(vectors), quantizer.lift() - quantizer.mean.mean(0)
    rebuilt = sum(lifted[level, codes[:, level]] for level in range(2)) + quantizer.mean.mean(0)
    error = ((rebuilt - vectors[:, 0]) ** 2).sum() / (vectors**2).sum()
    assert error < 0.25  # 256 codes of 4 dimensions; 16 of 4 leave .39
    rotation = quantizer.rotation
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(8), atol=1e-4)


def test_item_clusters_find_the_cluster_of_an_item():
    vectors = normal(200)
    quantizer = ItemClusters.fit(vectors, SETTINGS)
    codes = quantizer.encode(vectors)
    assert codes.shape == (200, 1)
    assert len(np.unique(codes)) == 8
    sids = np.column_stack([codes, np.arange(200)]).astype(np.int32)
    new = quantizer.new_sids(vectors[:3], sids, 256)
    assert (new[:, 0] == codes[:3, 0]).all()
    with pytest.raises(InputError, match="reassign"):
        quantizer.distances(vectors)
