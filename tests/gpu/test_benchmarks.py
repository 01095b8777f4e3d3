"""What benchmarks run, on a pretended device: none of it mixes devices."""

import pytest
import torch
from pretended_device import DEVICE, pretended_device

from benchmarks.decoding.cases import Case, CatalogShape
from benchmarks.decoding.engines import random_engine, random_histories
from benchmarks.decoding.lower_bound import make_lower_bound
from benchmarks.decoding.searches import make_searches
from benchmarks.ops.attention_cases import attention_case, tree_case
from benchmarks.ops.cases import decode_cases
from benchmarks.ops.layer_cases import norm_case, rope_case, swiglu_case
from benchmarks.ops.loss_cases import chunked_loss_case, loss_case, softmax_case
from benchmarks.ops.selection_cases import select_case, topk_case
from benchmarks.training import task
from benchmarks.training.engines import engine_of
from benchmarks.training.models import PackedStoreModel, packed_batch
from store_engine.kernels import _dispatch
from store_engine.model.store_model import StoreModel

PLACE, F32 = str(DEVICE), torch.float32
KERNELS = [
    lambda: loss_case(16, 8, 32, 8, F32, PLACE),
    lambda: softmax_case("slice", 8, 32, F32, PLACE),
    lambda: softmax_case("ranges", 8, 32, F32, PLACE),
    lambda: topk_case(2, 3, 64, 16, PLACE),
    lambda: attention_case(2, 3, 8, 16, F32, PLACE),
    lambda: norm_case(4, 64, F32, PLACE),
    lambda: swiglu_case(4, 96, F32, PLACE),
    lambda: rope_case(4, 2, 1, 32, F32, PLACE),
    lambda: tree_case(2, 3, 40, 2, 1, F32, PLACE),
    lambda: select_case(2, 3, 64, 16, F32, PLACE),
    lambda: chunked_loss_case(64, 32, 256, F32, PLACE),
]
NAMES = [
    *("loss", "slice", "ranges", "topk", "attention", "norm", "swiglu", "rope", "tree", "select"),
    "chunks",
]


@pytest.fixture
def gpu(monkeypatch):
    """The device with PyTorch's kernels alone."""
    monkeypatch.setattr(_dispatch, "_INTERPRET", False)
    _dispatch._choose_for_gpu.cache_clear()
    with pretended_device() as device:
        yield device
    _dispatch._choose_for_gpu.cache_clear()


@pytest.mark.parametrize("make_case", KERNELS, ids=NAMES)
def test_kernels(make_case, gpu):
    work = make_case().make()
    for op in (work.ours, work.other):
        out = op(*work.inputs)
        if work.dout is not None:
            inputs = [x.requires_grad_() for x in work.inputs]
            torch.autograd.grad(op(*inputs), inputs, work.dout)
        assert out is not None
    assert gpu.launches
    assert work.flops >= 0 and work.num_bytes > 0


def test_cases_of_a_search_agree_with_their_definition():
    """On the host, by the interpreter: what kernels.py checks before it times."""
    small = ("rows=4,", "beam=3", "T=64")
    cases = [c for c in decode_cases(F32, "cpu") if any(x in c.name for x in small)]
    assert len(cases) == 6
    for case in cases:
        work = case.make()
        work.check()
        triton = work.triton(*work.inputs)
        want = work.other(*work.inputs)
        pair = (x if isinstance(x, torch.Tensor) else x[0] for x in (triton, want))
        torch.testing.assert_close(*pair)


@pytest.mark.parametrize("form", ["codes", "heads", "items"])
def test_decode(form, gpu):
    catalog = CatalogShape(300, 4, 8)
    case = Case("tiny", "float32", 3, 4, (3, 5), catalog, form=form)
    engine = random_engine(case, PLACE, "float32")
    histories = random_histories(engine, case)
    searches = make_searches(engine, 4, is_timed=False)
    searches.pop("transformers", None)  # its own device handling is not ours to test
    found = [search(histories, 4)[0].tolist() for search in searches.values()]
    assert all(rows == found[0] for rows in found)
    make_lower_bound(engine, histories, 4)()


def test_a_training_step(gpu, monkeypatch):
    """Of ours, with the plain engine."""
    monkeypatch.setattr(task, "TEXT_VOCAB_SIZE", 300)
    monkeypatch.setattr(task, "HAS_DEEPSPEED", False)
    learned = task.Task("ours", "hidden=64,layers=1", "float32", "", 1, 2, 3, 1, PLACE)
    documents = task.draw_documents(learned)[:3]
    model = StoreModel(task.MODELS[learned.model], 300, task.CODEBOOK_SIZES).to(PLACE)
    with engine_of(learned, PackedStoreModel(model)) as engine:
        loss = engine(*packed_batch(documents, PLACE))
        engine.backward(loss)
        engine.step()
    assert loss.device == DEVICE
    assert loss.item() > 0
