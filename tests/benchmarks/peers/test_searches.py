from types import SimpleNamespace

import pytest
import torch

from benchmarks.peers import searches
from benchmarks.peers.searches import peer_searches, why_not

PEERS = ["transformers", "vllm", "flashrec"]


@pytest.fixture
def installed(monkeypatch):
    monkeypatch.setattr(searches.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(searches, "_why_not_flashrec", lambda engine, beam: "")


def test_a_peer_that_is_not_installed_is_named(monkeypatch, capsys, make_engine):
    monkeypatch.setattr(searches.importlib.util, "find_spec", lambda name: None)
    assert peer_searches(make_engine(), bos=1, beam=4) == {}
    wants = [f"no provider {name}: it is not installed" for name in PEERS]
    assert capsys.readouterr().err.splitlines() == wants


def test_engines_are_left_out_where_nothing_is_timed(monkeypatch, installed, make_engine):
    for peers in (searches.PEERS, searches.ENGINES):
        for name in peers:
            monkeypatch.setitem(peers, name, lambda engine, bos, name=name: name)
    assert list(peer_searches(make_engine(), bos=1, beam=4)) == PEERS
    assert list(peer_searches(make_engine(), bos=1, beam=4, can_start=False)) == ["transformers"]


def test_a_catalogue_that_peers_cannot_search_is_refused(installed, make_engine):
    assert why_not("vllm", make_engine(), 4) == ""
    assert "children" in why_not("vllm", make_engine(normalize="children"), 4)


@pytest.mark.parametrize(
    ("device", "changes", "dtype", "beam", "want"),
    [
        ("cpu", {}, "bfloat16", 4, "a GPU alone"),
        ("cuda", {}, "bfloat16", 4, "Qwen3 alone"),
        ("cuda", {"qk_norm": True}, "float32", 4, "in bfloat16"),
        ("cuda", {"qk_norm": True}, "bfloat16", 3, "lose items of 7 codes"),
        ("cuda", {"qk_norm": True}, "bfloat16", 4, ""),
    ],
)
def test_flashrec_is_asked_for_what_it_can_do(make_model, device, changes, dtype, beam, want):
    model = make_model(**changes).to(getattr(torch, dtype))
    trie = SimpleNamespace(codebook_sizes=model.codebook_sizes)
    engine = SimpleNamespace(device=torch.device(device), model=model, trie=trie)
    reason = searches._why_not_flashrec(engine, beam)
    assert want in reason
    assert bool(want) == bool(reason)
