import pytest

from benchmarks.peers import searches
from benchmarks.peers.searches import peer_searches, why_not


@pytest.fixture
def installed(monkeypatch):
    monkeypatch.setattr(searches.importlib.util, "find_spec", lambda name: name)


def test_a_peer_that_is_not_installed_is_named(monkeypatch, capsys, make_engine):
    monkeypatch.setattr(searches.importlib.util, "find_spec", lambda name: None)
    assert peer_searches(make_engine(), bos=1) == {}
    named = capsys.readouterr().err.splitlines()
    assert named == [
        f"no provider {name}: it is not installed" for name in ("transformers", "vllm")
    ]


def test_engines_are_left_out_where_nothing_is_timed(monkeypatch, installed, make_engine):
    for peers in (searches.PEERS, searches.ENGINES):
        for name in peers:
            monkeypatch.setitem(peers, name, lambda engine, bos, name=name: name)
    assert list(peer_searches(make_engine(), bos=1)) == ["transformers", "vllm"]
    assert list(peer_searches(make_engine(), bos=1, can_start=False)) == ["transformers"]


def test_a_catalogue_that_peers_cannot_search_is_refused(installed, make_engine):
    assert why_not("vllm", make_engine()) == ""
    assert "children" in why_not("vllm", make_engine(normalize="children"))
