import numpy as np
import pytest

from store_engine.errors import InputError
from store_engine.sid.quantizers.parallel import ParallelQuantizer
from store_engine.sid.quantizers.quantizer import FitSettings


def clustered(num_items=60, num_codes=2, hidden=8, clusters=4):
    """Items around well separated centres, another assignment at each position."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, clusters, (num_items, num_codes))
    labels[:clusters] = np.arange(clusters)[:, None]
    centres = 10 * rng.standard_normal((num_codes, clusters, hidden))
    noise = 0.1 * rng.standard_normal((num_items, num_codes, hidden))
    return (centres[np.arange(num_codes), labels] + noise).astype(np.float32), labels


def fit(vectors, codebook_size, pca_dim, iterations, seed):
    settings = FitSettings(vectors.shape[1], codebook_size, pca_dim, iterations, seed)
    return ParallelQuantizer.fit(vectors, settings)


def test_finds_the_clusters_of_every_position_by_itself():
    vectors, labels = clustered()
    codes = fit(vectors, 4, 4, 20, 0).encode(vectors)
    for n in range(2):
        pairs = set(zip(codes[:, n].tolist(), labels[:, n].tolist(), strict=True))
        assert len(pairs) == 4  # codes and clusters are one to one


def test_assigns_the_nearest_centroid():
    vectors, _ = clustered()
    quantizer = fit(vectors, 5, 3, 5, 0)
    projected = quantizer.project(vectors)
    gap = projected[:, :, None] - quantizer.centroids[None]
    np.testing.assert_allclose(quantizer.distances(vectors), (gap**2).sum(-1), atol=1e-2)
    assert (quantizer.encode(vectors) == (gap**2).sum(-1).argmin(-1)).all()


def test_lifted_centroids_lie_among_their_items():
    vectors, _ = clustered()
    quantizer = fit(vectors, 4, 8, 20, 0)
    codes = quantizer.encode(vectors)
    lifted = quantizer.lift()
    for code in range(4):
        mean = vectors[codes[:, 0] == code, 0].mean(0)
        np.testing.assert_allclose(lifted[0, code], mean, atol=1e-3)


def test_is_deterministic():
    vectors, _ = clustered()
    first, second = (fit(vectors, 4, 4, 20, 3) for _ in range(2))
    for name, array in vars(first).items():
        assert np.array_equal(array, vars(second)[name]), name


def test_rejects_more_codes_than_items():
    vectors, _ = clustered(num_items=5)
    with pytest.raises(InputError, match="got 6 > 5"):
        fit(vectors, 6, 4, 20, 0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30], ids=str)
def test_rejects_vectors_that_are_not_finite(bad):
    vectors, _ = clustered()
    vectors[3, 1, 2] = vectors[7, 0, 0] = bad
    with pytest.raises(InputError, match="of 2 of 60 items, first of row 3, are not finite"):
        fit(vectors, 4, 4, 20, 0)


def test_needs_a_vector_per_code():
    vectors, _ = clustered()
    with pytest.raises(InputError, match=r"got 2 vectors and tokenizer\.num_codes = 3"):
        ParallelQuantizer.fit(vectors, FitSettings(3, 4, 4, 20, 0))
