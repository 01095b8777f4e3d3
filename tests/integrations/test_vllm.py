"""An exported model in vLLM: `make vllm` runs this in an environment of its own."""

import importlib.util
import json
import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from engines import SIZES, SMALL, catalog_of, random_model, random_sids

from store_engine._C import ItemTrie
from store_engine.config import Config, DataConfig, DecodingConfig, ModelConfig
from store_engine.data.histories import Histories
from store_engine.decoding.engine import Engine
from store_engine.errors import InputError
from store_engine.model.weights import save_weights
from store_engine.runs.run import load_run
from store_engine.runs.run_directory import RunDirectory, RunOrigin
from store_engine.sid.sid_table import SidTable
from store_engine.text.text_vocabulary import TextVocabulary

if importlib.util.find_spec("vllm") is None:  # before the environment of all other tests changes
    pytest.skip("vLLM is not installed: `make vllm` runs this", allow_module_level=True)
os.environ |= {
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
    "TORCHDYNAMO_DISABLE": "1",  # a sampler compiled for a minute would run for a second
}
import vllm
from vllm.sampling_params import BeamSearchParams
from vllm.v1.sample.logits_processor import BatchUpdate, MoveDirectionality

from store_engine.integrations.vllm import SidLogitsProcessor

PROCESSOR = "store_engine.integrations.vllm:SidLogitsProcessor"
LEVELS, WIDTH = len(SIZES), 20
HISTORIES = [["item 3", "item 1"], ["item 7"], [], ["item 5"] * 4]


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """A finished run with random weights, of a shape that vLLM's attention takes on a CPU."""
    torch.manual_seed(0)
    sids = np.unique(random_sids(300), axis=0)
    catalog = catalog_of(len(sids))
    config = Config(
        data=DataConfig(max_history=8),
        model=ModelConfig(**(SMALL | {"head_dim": 32})),
        decoding=DecodingConfig(beam_width=WIDTH),
    )
    vocabulary = TextVocabulary.train(catalog.fields["title"], vocab_size=300)
    model = random_model(text_vocab_size=len(vocabulary), head_dim=32)

    def write_data(paths):
        catalog.save(paths.items)
        Histories(("u",), np.arange(9, dtype=np.int32), np.array([0, 9])).save(paths.histories)
        vocabulary.save(paths.root)

    root = tmp_path_factory.mktemp("runs") / "run"
    with RunDirectory.create(root, RunOrigin(config, "fixture"), write_data) as run:
        with run.writing(run.sids):
            SidTable(sids, SIZES, catalog.item_ids).save(run.sids)
        with run.writing(run.trie, run.model_weights):
            ItemTrie(sids, list(SIZES)).save(str(run.trie))
            save_weights(model.state_dict(), run.model_weights)
    return root


@pytest.fixture(scope="module")
def exported(run_dir, tmp_path_factory):
    from store_engine.integrations.export_run import export_run

    folder = tmp_path_factory.mktemp("exported") / "model"
    export_run(load_run(run_dir), folder)
    return folder


@pytest.fixture(scope="module")
def engine(run_dir):
    return Engine.load(run_dir, dtype="float32")


@pytest.fixture(scope="module")
def llm(exported):
    return vllm.LLM(
        str(exported),
        logits_processors=[PROCESSOR],
        logprobs_mode="processed_logits",
        max_logprobs=2 * WIDTH,
        dtype="float32",
        enforce_eager=True,
        max_model_len=256,
        max_num_seqs=64,
    )


@pytest.fixture(scope="module")
def tokens_of(llm, exported):
    """Item id -> the tokens of its SID, as the exported tokenizer has them."""
    to_ids = llm.get_tokenizer().convert_tokens_to_ids
    sids = json.loads((exported / "sids.json").read_text())
    return {item: tuple(to_ids(sid)) for item, sid in sids.items()}


@pytest.fixture(scope="module")
def prompts(llm, tokens_of):
    bos = llm.get_tokenizer().bos_token_id
    return [
        {"prompt_token_ids": [bos, *(token for item in history for token in tokens_of[item])]}
        for history in HISTORIES
    ]


@pytest.fixture(scope="module")
def item_of(tokens_of):
    return {tokens: item for item, tokens in tokens_of.items()}


def test_beam_search_finds_the_engine_s_list(llm, engine, prompts, item_of):
    params = BeamSearchParams(beam_width=WIDTH, max_tokens=LEVELS, ignore_eos=True)
    wants = engine.recommend(HISTORIES, k=WIDTH, beam_width=WIDTH)
    for output, want in zip(llm.beam_search(prompts, params), wants, strict=True):
        found = [item_of.get(tuple(beam.tokens[-LEVELS:])) for beam in output.sequences]
        assert found == [item.item_id for item in want]
        logprobs = [beam.cum_logprob for beam in output.sequences]
        assert logprobs == pytest.approx([item.logprob for item in want], abs=1e-4)


def test_n_best_are_items_with_the_engine_s_scores(llm, engine, prompts, item_of):
    params = vllm.SamplingParams(
        n=40, temperature=1.0, max_tokens=LEVELS, logprobs=0, seed=0, ignore_eos=True
    )
    rows = [[engine.catalog.row_of(item) for item in history] for history in HISTORIES]
    for output, exact in zip(llm.generate(prompts, params), engine.score_rows(rows), strict=True):
        items = [item_of.get(tuple(one.token_ids)) for one in output.outputs]
        assert None not in items
        assert len(set(items)) > 5
        wants = [exact[engine.catalog.row_of(item)] for item in items]
        logprobs = [one.cumulative_logprob for one in output.outputs]
        assert logprobs == pytest.approx(wants, abs=1e-4)


def test_a_request_may_write_text_or_several_items(llm, prompts, item_of):
    text = vllm.SamplingParams(temperature=0, max_tokens=4, extra_args={"sids": False})
    two_items = vllm.SamplingParams(temperature=0, max_tokens=2 * LEVELS, ignore_eos=True)
    one_item = vllm.SamplingParams(temperature=0, max_tokens=LEVELS, ignore_eos=True)
    both = [text, two_items, one_item]
    free, two, one = (out.outputs[0].token_ids for out in llm.generate(prompts[:3], both))
    assert tuple(two[:LEVELS]) in item_of
    assert tuple(two[LEVELS:]) in item_of
    assert tuple(one) in item_of
    (alone,) = llm.generate(prompts[:1], text)
    assert list(alone.outputs[0].token_ids) == list(free)
    assert tuple(free[:LEVELS]) not in item_of


def test_an_option_that_is_neither_is_refused(llm, prompts):
    # vLLM makes an error of its own of our ValueError
    with pytest.raises(Exception, match="must be true or false, got 'no'"):
        llm.generate(prompts[:1], vllm.SamplingParams(extra_args={"sids": "no"}))


def processor(folder, mode="processed_logits"):
    config = SimpleNamespace(model=str(folder), logprobs_mode=mode)
    return SidLogitsProcessor(SimpleNamespace(model_config=config), torch.device("cpu"), False)


def test_logprobs_from_before_the_processor_are_refused(exported, tmp_path):
    with pytest.raises(InputError, match="logprobs_mode must be processed_logits"):
        processor(exported, "raw_logprobs")
    with pytest.raises(InputError, match=r"config\.json"):
        processor(tmp_path)


def test_requests_come_go_and_move(exported, tokens_of):
    """A batch of changing requests is constrained as each sequence alone."""
    ours, vocab_size = processor(exported), 300 + sum(SIZES) + 2
    params, free = vllm.SamplingParams(), vllm.SamplingParams(extra_args={"sids": False})
    first, second, third = (list(tokens_of[f"item {i}"]) for i in range(3))
    output: list[int] = []

    def step(places, **update):
        arguments = {"removed": [], "added": [], "moved": []} | update
        ours.update_state(BatchUpdate(batch_size=len(places), **arguments) if update else None)
        logits = torch.randn(len(places), vocab_size)
        got = ours.apply(logits.clone())
        for place, sequence in enumerate(places):
            want = logits[[place]]
            if sequence is not None:
                want = ours._constraint.logprobs(torch.tensor([[-1] * LEVELS + sequence]), want)
            assert torch.equal(got[[place]], want), place

    assert torch.equal(ours.apply(torch.zeros(2, vocab_size)), torch.zeros(2, vocab_size))
    added = [(0, params, [1], output), (1, free, [1], []), (2, params, [1, *first], [])]
    step([[1], None, [1, *first]], added=added)
    output.append(second[0])  # vLLM's own list, which grows
    step([[1, second[0]], None, [1, *first]])
    swap = [(0, 1, MoveDirectionality.SWAP)]
    step([None, [1, second[0]], [1, *first]], moved=swap)
    output.append(second[1])
    one_way = [(2, 0, MoveDirectionality.UNIDIRECTIONAL)]
    step([[1, *first], [1, *second[:2]]], removed=[0], moved=one_way)  # 2 fills the gap
    step([[1, *third], [1, *second[:2]]], added=[(0, params, [1, *third], [])])
    step([[1, *third], None], added=[(1, free, [1], [])])


def test_a_prompt_of_embeddings_is_refused(exported):
    update = BatchUpdate(
        batch_size=1, removed=[], added=[(0, vllm.SamplingParams(), None, [])], moved=[]
    )
    with pytest.raises(ValueError, match="token ids"):
        processor(exported).update_state(update)
