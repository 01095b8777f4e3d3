import numpy as np
import pytest
import torch
from sparse_votes import flat, make_events, random_histories, random_votes

from store_engine.kernels.score_evidence import score_evidence

BACKENDS = ["torch", "triton"]
# items, density, batch, events of a history, items that are scored
CASES = [(1, 1.0, 1, 1, 1), (60, 0.2, 3, 4, 9), (200, 0.05, 2, 20, 63), (40, 0.0, 2, 3, 5)]


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_has_the_bits_of_the_core(case, backend, device):
    num_items, density, batch, num_events, width = case
    votes, core = random_votes(num_items, density, device)
    histories = random_histories(batch, num_items, num_events)
    items = torch.randint(-1, num_items + 2, (batch, width), device=device).int()
    want = core.score(*flat(histories), 0.7, num_events, items.long().cpu().numpy())
    events = make_events(histories, num_events, 0.7, device)
    got = score_evidence(votes, events, items, backend=backend)
    np.testing.assert_array_equal(got.cpu().numpy(), want)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_batch_is_as_one_by_one(backend, device):
    votes, _ = random_votes(50, 0.3, device)
    events = make_events(random_histories(3, 50, 5), 5, 0.5, device)
    items = torch.randint(0, 50, (3, 7), device=device).int()
    together = score_evidence(votes, events, items, backend=backend)
    for b in range(3):
        own = events._replace(rows=events.rows[b : b + 1])
        alone = score_evidence(votes, own, items[b : b + 1], backend=backend)
        assert torch.equal(together[b : b + 1], alone)


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing(backend, device):
    votes, _ = random_votes(50, 0.3, device)
    events = make_events([], 5, 0.5, device)
    nothing = torch.zeros(0, 7, device=device).int()
    assert score_evidence(votes, events, nothing, backend=backend).shape == (0, 7)


VOTES, EVENTS = random_votes(8, 0.5)[0], make_events([[1], [2]], 3, 0.5)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"items": torch.zeros(2).int()}, ValueError, r"items must be \(batch, n\)"),
        ({"items": torch.zeros(3, 1).int()}, ValueError, r"items must be \(2, 1\)"),
        ({"items": torch.zeros(2, 1)}, TypeError, "items must be torch.int32"),
        ({"events": EVENTS._replace(rows=torch.zeros(2, 0).int())}, ValueError, "1 to 1024"),
        ({"events": EVENTS._replace(weights=torch.ones(2))}, ValueError, r"weights must be \(3,\)"),
        ({"votes": VOTES._replace(data=torch.ones(1))}, ValueError, "data must be"),
        ({"votes": VOTES._replace(longest=-1)}, ValueError, "longest not below 0, got -1"),
    ],
    ids=["items", "batch", "dtype", "no events", "weights", "data", "longest"],
)
def test_rejects(change, error, message):
    args = {"votes": VOTES, "events": EVENTS, "items": torch.zeros(2, 1).int()}
    with pytest.raises(error, match=message):
        score_evidence(**(args | change))
