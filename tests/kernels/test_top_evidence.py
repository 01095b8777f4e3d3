import numpy as np
import pytest
import torch
from sparse_votes import flat, make_events, random_histories, random_votes

from store_engine.kernels.top_evidence import top_evidence
from store_engine.kernels.trie_select import Filter
from store_engine.kernels.trie_topk import pack_items, word_ranks
from store_engine.kernels.triton import top_evidence as triton_path

BACKENDS = ["torch", "triton"]
# items, density, batch, events of a history, k
CASES = [(1, 1.0, 1, 1, 1), (60, 0.2, 3, 4, 9), (150, 0.1, 2, 9, 40), (40, 0.0, 2, 3, 5)]


def everything(num_items, device):
    """Places of all items, in another order than their rows."""
    return torch.randperm(num_items, device=device).int()


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_finds_what_the_core_finds(case, backend, device):
    num_items, density, batch, num_events, k = case
    votes, core = random_votes(num_items, density, device)
    votes.data.copy_(votes.data.clamp(1, 2).round())  # equals are many
    histories = random_histories(batch, num_items, num_events)
    want, _ = core.top(*flat(histories), 0.5, num_events, k)
    events, places = make_events(histories, num_events, 0.5, device), everything(num_items, device)
    got = top_evidence(votes, events, places, k, backend=backend)
    np.testing.assert_array_equal(got.rows.cpu().numpy(), want)
    expected = torch.nn.functional.pad(places, (0, 1), value=-1)[torch.from_numpy(want).to(device)]
    assert torch.equal(got.places, expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_gives_what_may_be_given(backend, device):
    num_items, k = 80, 30
    votes, core = random_votes(num_items, 0.2, device)
    histories = [[3, 8, 1], [5], [2, 2]]
    events, places = make_events(histories, 4, 0.5, device), everything(num_items, device)
    places[torch.rand(num_items, device=device) < 0.2] = -1  # not in the catalogue
    places = places[:-3]  # nor these
    is_in_set = torch.rand(1, num_items, device=device) < 0.7
    excluded = torch.tensor([[4, 9, 80], [80, 80, 80], [0, 1, 7]], device=device).int()
    set_index = torch.tensor([0, -1, -1], device=device).int()
    excluded[0, :2] = is_in_set[0].nonzero()[:2, 0].int()
    words = pack_items(is_in_set)
    given = Filter(words, word_ranks(words), set_index, excluded, torch.zeros_like(set_index))
    got = top_evidence(votes, events, places, k, filter=given, backend=backend)
    every, _ = core.top(*flat(histories), 0.5, 4, num_items)
    for b, ranked in enumerate(every.tolist()):
        wanted = []
        for row in ranked:
            place = int(places[row]) if 0 <= row < len(places) else -1
            is_given = place >= 0 and place not in excluded[b].tolist()
            if is_given and (b > 0 or bool(is_in_set[0, place])):
                wanted.append(row)
        wanted = (wanted + [-1] * k)[:k]
        assert got.rows[b].tolist() == wanted
        assert got.places[b].tolist() == [int(places[row]) if row >= 0 else -1 for row in wanted]


def test_tiles_change_nothing(device, monkeypatch):
    votes, _ = random_votes(120, 0.3, device)
    events = make_events([[3, 8, 1, 7, 20], [5]], 5, 0.5, device)
    places = everything(120, device)
    want = top_evidence(votes, events, places, 50, backend="torch")
    tiles = {"BLOCK_E": 8, "BLOCK_I": 4}
    monkeypatch.setattr(triton_path, "launch_config", lambda _: tiles)
    monkeypatch.setattr(triton_path, "top_config", lambda: {"BLOCK": 32, "BLOCK_R": 8})
    got = top_evidence(votes, events, places, 50, backend="triton")
    assert all(torch.equal(x, y) for x, y in zip(got, want, strict=True))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"k": 0}, ValueError, "k must be at least 1"),
        ({"place_of_row": torch.zeros(0).int()}, ValueError, "there must be places"),
        ({"place_of_row": torch.zeros(8)}, TypeError, "place_of_row must be torch.int32"),
    ],
    ids=["k", "places", "dtype"],
)
def test_rejects(change, error, message):
    votes, events = random_votes(8, 0.5)[0], make_events([[1]], 3, 0.5)
    args = {"votes": votes, "events": events, "place_of_row": torch.zeros(8).int(), "k": 2}
    with pytest.raises(error, match=message):
        top_evidence(**(args | change))
