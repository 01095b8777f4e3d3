"""FlashRec needs a GPU: here a stand-in reads the files that it is given and ranks all items."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

pytest.importorskip("transformers")
from transformers import AutoModelForCausalLM

from benchmarks.peers.flashrec_beam import FlashrecBeamSearch

SID_BEGIN, SID_END = 38, 39  # behind 20 words and 6 + 5 + 7 codes


class Config(SimpleNamespace):
    def __init__(self, model_path, **given):
        super().__init__(model_path=model_path, **given)


@dataclass
class Request:
    input_ids: list[int]
    beam_width: int
    max_new_tokens: int


class StandIn:
    """As documented: token = first + the sizes of the levels before + code; boundaries around."""

    def __init__(self, config):
        assert config.quantization is None and not config.enable_radix
        span, sizes = config.sid.split("/")
        self.first, self.sizes = int(span.split(":")[0]), list(map(int, sizes.split(",")))
        assert json.loads(Path(config.model_path, "config.json").read_text())["rope_theta"] == 1e4
        self.model = AutoModelForCausalLM.from_pretrained(config.model_path)
        sids = json.loads(Path(config.sid_vocab_file).read_text())
        offsets = [self.first + sum(self.sizes[:level]) for level in range(len(self.sizes))]
        codes = [map(int, sid.split(",")) for sid in sids]
        self.paths = [[o + c for o, c in zip(offsets, sid, strict=True)] for sid in codes]

    @torch.no_grad()
    def generate_many(self, requests):
        return [SimpleNamespace(sequences=self.best(request)) for request in requests]

    def best(self, request):
        tokens = torch.tensor([request.input_ids + path for path in self.paths])
        logits = self.model(tokens).logits[:, len(request.input_ids) - 1 :]
        scores = torch.zeros(len(tokens))
        for level, size in enumerate(self.sizes):
            first = self.first + sum(self.sizes[:level])
            every = slice(first, first + size) if level else slice(first, first + sum(self.sizes))
            token = tokens[:, len(request.input_ids) + level, None] - first
            scores += logits[:, level, every].log_softmax(-1).gather(1, token)[:, 0]
        order = scores.argsort(descending=True)[: request.beam_width].tolist()
        return [
            SimpleNamespace(
                tokens=[SID_BEGIN, *self.paths[i], SID_END], cum_logprob=scores[i].item()
            )
            for i in order
        ]


@pytest.fixture
def flashrec(monkeypatch):
    core = ModuleType("flashrec.core")
    core.BeamRequest = Request
    package = ModuleType("flashrec")
    package.BeamRecConfig, package.BeamRecEngine, package.core = Config, StandIn, core
    monkeypatch.setitem(sys.modules, "flashrec", package)
    monkeypatch.setitem(sys.modules, "flashrec.core", core)


def test_it_ranks_as_the_engine_does_but_for_a_number(flashrec, make_engine, histories):
    engine = make_engine()
    want, logprobs = engine.recommend_rows(histories, 6, beam_width=60, exclude_history=False)[:2]
    rows, scores = FlashrecBeamSearch(engine, bos=1, beam=6)(histories, 6)
    assert rows.tolist() == want.tolist()
    lower = logprobs - scores
    assert lower.min() > 0
    assert abs(lower - lower[:, :1]).max() < 1e-4
