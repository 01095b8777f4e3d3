import numpy as np
import pytest

from benchmarks.quality.slist import Slist, SlistConfig, choose
from store_engine.data.histories import Histories


def histories_of(*rows):
    offsets = np.cumsum([0, *map(len, rows)], dtype=np.int64)
    flat = np.concatenate([np.array(row, dtype=np.int32) for row in rows])
    return Histories(tuple(str(user) for user in range(len(rows))), flat, offsets)


def by_loops(histories, num_items, config):
    """The normal equations, row by row as the paper writes them."""
    sets, before, after = [], [], []
    for user in range(histories.num_users):
        history = histories[user].tolist()
        sets.append([float(item in history) for item in range(num_items)])
        for cut in range(1, len(history)):
            s, t = np.zeros(num_items), np.zeros(num_items)
            for item in set(history[:cut]):
                steps = min(cut - 1 - i for i in range(cut) if history[i] == item)
                s[item] = np.exp(-steps / config.train_decay)
            for item in set(history[cut:]):
                steps = min(i - cut for i in range(cut, len(history)) if history[i] == item)
                t[item] = np.exp(-steps / config.train_decay)
            before.append(s)
            after.append(t)
    x, s, t = map(np.array, (sets, before, after))
    a = config.alpha
    gram = a * x.T @ x + (1 - a) * s.T @ s + config.ridge * np.eye(num_items)
    return np.linalg.solve(gram, a * x.T @ x + (1 - a) * s.T @ t)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_the_matrix_solves_the_normal_equations(alpha):
    rng = np.random.default_rng(0)
    histories = histories_of(*(rng.integers(0, 9, rng.integers(2, 8)) for _ in range(12)))
    config = SlistConfig(alpha, 1.7, 0.9, 0.5)
    model = Slist(histories, 9, config)
    assert model.weights == pytest.approx(by_loops(histories, 9, config), abs=1e-4)


def test_scores_weigh_the_nearest_place_of_an_item():
    model = Slist(histories_of([0, 1, 2], [2, 1, 0]), 3, SlistConfig(0.5, 1.0, 2.0, 1.0))
    (scores,) = model.scores([np.array([0, 1, 0], dtype=np.int32)])
    votes = np.array([1.0, np.exp(-1 / 2.0), 0.0])
    assert scores == pytest.approx(votes @ model.weights, abs=1e-6)


def test_the_best_of_the_grid_is_kept():
    histories = histories_of([0, 1, 2], [0, 1, 2], [1, 2, 0])
    grid = {"alpha": (0.0, 1.0), "train_decay": (1.0,), "decay": (1.0, 3.0)}
    wanted = {(0.0, 1.0): 0.1, (0.0, 3.0): 0.4, (1.0, 1.0): 0.3, (1.0, 3.0): 0.2}
    chosen = choose(histories, 3, lambda m: wanted[m.config.alpha, m.config.decay], grid)
    assert (chosen.model.config.alpha, chosen.model.config.decay) == (0.0, 3.0)
    assert chosen.validation == 0.4
