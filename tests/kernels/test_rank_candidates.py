import pytest
import torch

from store_engine.kernels.rank_candidates import RankedCandidates, rank_candidates

BACKENDS = ["torch", "triton"]
INF = float("inf")
# batch, found items, named items
CASES = [(1, 1, 0), (3, 7, 5), (2, 0, 4), (2, 70, 63)]


def make(batch, num_found, num_named, device="cpu"):
    """Items of which some are in both lists, some are none, some forbidden; equals are many."""
    n = num_found + num_named
    sizes, order = (num_found, num_named), torch.rand(2, batch, 2 * n, device=device).argsort(2)
    places = torch.cat([one[:, :size] for one, size in zip(order, sizes, strict=True)], 1).int()
    logprobs = -torch.randint(0, 3, places.shape, device=device).float()
    evidence = torch.randint(0, 3, places.shape, device=device).float()
    logprobs[torch.rand(places.shape, device=device) < 0.1] = -INF
    places[torch.rand(places.shape, device=device) < 0.2] = -1
    was_bad = torch.arange(batch, device=device) == 1
    return logprobs, evidence, places, was_bad, num_found


def brute_force(logprobs, evidence, places, num_found):
    """Of one request: triples of log-probability, evidence and place."""
    entries = list(zip(logprobs.tolist(), evidence.tolist(), places.tolist(), strict=True))
    is_one = [place >= 0 and logprob > -INF for logprob, _, place in entries]
    found = {entries[i][2] for i in range(num_found) if is_one[i]}
    kept = [
        entry
        for i, entry in enumerate(entries)
        if is_one[i] and (i < num_found or entry[2] not in found)
    ]
    kept.sort(key=lambda entry: (-(entry[0] + entry[1]), entry[2]))
    return kept + [(-INF, 0.0, -1)] * (len(entries) - len(kept))


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_equals_brute_force(case, backend, device):
    args = make(*case, device)
    got = RankedCandidates.of(rank_candidates(*args, backend=backend))
    for b in range(case[0]):
        want = brute_force(*(x[b] for x in args[:3]), case[1])
        ranked = zip(*(x[b].tolist() for x in got[:3]), strict=True)
        assert list(ranked) == want
    assert got.is_bad.tolist() == [b == 1 for b in range(case[0])]


@pytest.mark.parametrize("backend", BACKENDS)
def test_nan_flags_its_request(backend, device):
    logprobs, evidence, places, was_bad, num_found = make(3, 4, 4, device)
    logprobs[2, 6], places[2, 6] = torch.nan, 3
    logprobs[0, 6], places[0, 6] = torch.nan, -1  # of no item
    ranked = rank_candidates(logprobs, evidence, places, was_bad, num_found, backend=backend)
    assert RankedCandidates.of(ranked).is_bad.tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"num_found": 9}, ValueError, "num_found at most n"),
        ({"evidence": torch.zeros(3, 7)}, ValueError, r"evidence must be \(3, 8\)"),
        ({"places": torch.zeros(3, 8)}, TypeError, "places must be torch.int32"),
    ],
    ids=["found", "evidence", "dtype"],
)
def test_rejects(change, error, message):
    names = "logprobs", "evidence", "places", "was_bad", "num_found"
    with pytest.raises(error, match=message):
        rank_candidates(**(dict(zip(names, make(3, 4, 4), strict=True)) | change))
