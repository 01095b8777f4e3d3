"""Experts: a log-linear model of the next item is found again, without terms of no worth."""

import numpy as np
import pytest
import torch

from store_engine.collaborative.experts import Choices, Expert, weigh_experts

NONE = np.zeros(0, dtype=np.float16)


def drawn(share, weights, units, num_users=4000, width=20, seed=0):
    """Choices of users who follow the model."""
    rng = np.random.default_rng(seed)
    logprobs = rng.normal(-6, 2, (num_users, width))
    votes = rng.exponential(1, (num_users, width, len(weights)))
    votes *= rng.random(votes.shape) < 0.5
    scores = share * logprobs + np.log1p(votes / units) @ np.array(weights)
    chosen = (scores + rng.gumbel(size=scores.shape)).argmax(1)
    return Choices(
        torch.from_numpy(logprobs.astype(np.float32)),
        torch.from_numpy(votes.astype(np.float32)),
        torch.from_numpy(chosen),
    )


def test_finds_the_model_that_the_choices_were_drawn_from():
    found = weigh_experts(drawn(0.8, [1.2, 0, -0.5], [0.5, 1, 1]))
    assert found.terms == [0, 2]
    assert found.weights == pytest.approx([1.5, -0.625], abs=0.2)  # in units of the share
    assert found.units[0] == pytest.approx(0.5, abs=0.2)


def test_a_place_without_an_item_is_never_a_choice():
    whole = drawn(0.8, [1.0], [0.5])
    padded = Choices(
        torch.nn.functional.pad(whole.logprobs, (0, 5), value=-1e6),
        torch.nn.functional.pad(whole.votes, (0, 0, 0, 5)),
        whole.chosen,
    )
    one, other = weigh_experts(whole), weigh_experts(padded)
    assert other.weights == pytest.approx(one.weights, rel=1e-3)


def test_an_llm_that_says_nothing_keeps_a_share():
    """Scores are in units of its log-probability: without a share they would be infinite."""
    found = weigh_experts(drawn(0.0, [1.0], [0.5]))
    assert found.terms == [0]
    assert 10 < found.weights[0] <= 60


@pytest.mark.parametrize(
    "choices",
    [
        drawn(1.0, [0, 0], [1, 1]),
        Choices(torch.zeros(0, 3), torch.zeros(0, 3, 2), torch.zeros(0, dtype=torch.int64)),
    ],
    ids=["nothing counts", "nobody chose"],
)
def test_no_term_may_be_left(choices):
    assert weigh_experts(choices) == ([], [], [])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight": float("nan")}, "weight must be finite"),
        ({"unit": 0.0}, "unit above 0"),
        ({"unit": float("inf")}, "must be finite"),
        ({"decay": 0.0}, "decay"),
        ({"decay": float("nan")}, "decay"),
        ({"data": np.zeros(1)}, "float16"),
        ({"data": np.zeros((1, 1), np.float16)}, "1-d"),
        ({"data": np.array([np.inf], np.float16)}, "finite"),
        ({"data": np.array([-1], np.float16)}, "not negative"),
    ],
    ids=str,
)
def test_what_is_no_expert(changes, message):
    parts = {"name": "graph", "weight": -1.0, "unit": 0.5, "decay": 0.5, "data": NONE}
    Expert(**parts)
    with pytest.raises(ValueError, match=message):
        Expert(**(parts | changes))
