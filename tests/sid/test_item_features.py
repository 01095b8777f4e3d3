import numpy as np
import pytest

from store_engine.errors import InputError
from store_engine.sid.item_features import FeatureMap, ItemVectors, fit_features


def dense_tokens(num_items=20):
    return np.random.default_rng(0).standard_normal((num_items, 2, 3)).astype(np.float32)


def test_features_are_the_principal_components_and_a_one():
    tokens = dense_tokens()
    features = fit_features(tokens, 4)
    got = features(tokens)
    assert got.shape == (20, features.num_features) == (20, 5)
    assert (got[:, -1] == 1).all()
    assert (got[:, :-1] ** 2).sum(1).mean() == pytest.approx(1.0, rel=1e-4)
    variances = got[:, :-1].var(0)
    assert (np.diff(variances) < 0).all()
    covariance = np.cov(got[:, :-1].T)
    np.testing.assert_allclose(covariance, np.diag(np.diag(covariance)), atol=1e-5)


def test_a_new_item_has_the_features_of_its_twin():
    tokens = dense_tokens()
    features = fit_features(tokens, 3)
    np.testing.assert_array_equal(features(tokens[4:5]), features(tokens)[4:5])


@pytest.mark.parametrize("num_items", [1, 2])
def test_few_items_have_few_features(num_items):
    features = fit_features(dense_tokens(num_items), 5)
    assert features.num_features <= num_items + 1
    assert np.isfinite(features(dense_tokens(num_items))).all()


@pytest.mark.parametrize(
    ("mean", "components"),
    [
        (np.zeros(3), np.zeros((2, 4))),
        (np.zeros(3), np.zeros((0, 3))),
        (np.full(3, np.nan), np.ones((1, 3))),
    ],
)
def test_arrays_that_do_not_fit_are_refused(mean, components):
    with pytest.raises(ValueError, match="feature"):
        FeatureMap(mean.astype(np.float32), components.astype(np.float32))


def test_save_and_load(tmp_path):
    vectors = ItemVectors(np.ones((3, 2), np.float32), np.zeros((3, 4), np.float32))
    vectors.save(tmp_path / "item_vectors.npz")
    loaded = ItemVectors.load(tmp_path / "item_vectors.npz")
    np.testing.assert_array_equal(loaded.space, vectors.space)
    np.testing.assert_array_equal(loaded.features, vectors.features)


@pytest.mark.parametrize(
    "arrays",
    [
        {"space": np.ones((3, 2))},
        {"space": np.ones((3, 2)), "features": np.ones((4, 2))},
        {"space": np.full((3, 2), np.inf), "features": np.ones((3, 2))},
        {"space": np.ones(3), "features": np.ones((3, 2))},
    ],
    ids=["missing", "other items", "infinite", "flat"],
)
def test_damaged_vectors_are_refused(arrays, tmp_path):
    np.savez(tmp_path / "item_vectors.npz", **arrays)
    with pytest.raises(InputError, match=r"item_vectors\.npz"):
        ItemVectors.load(tmp_path / "item_vectors.npz")
