import os

import pytest

from benchmarks.training.measure import see_one_gpu, useful_flops
from benchmarks.training.task import CODEBOOK_SIZES, MODELS, Task, draw_documents

TASK = Task("ours", "hidden=256,layers=4", "float32", "", 1, 2, 3, 1)


def test_useful_flops_count_matrix_products_alone():
    """By hand: each multiply-add is two, forward once and backward twice."""
    config = MODELS[TASK.model]
    documents = draw_documents(TASK)
    want = 0.0
    for document in documents:
        length = len(document.tokens)
        qkvo = 2 * config.hidden_size * 64 * (config.num_heads + config.num_kv_heads)
        mlp = 3 * config.hidden_size * config.intermediate_size
        pairs = length * (length + 1) / 2  # a token sees itself and those before
        attention = 2 * pairs * config.num_heads * 64
        layer = length * (qkvo + mlp) + attention
        want += config.num_layers * layer + length * config.hidden_size * CODEBOOK_SIZES[0]
    assert useful_flops(TASK, documents) == pytest.approx(3 * 2 * want)


@pytest.mark.parametrize(
    ("device", "visible", "want"),
    [
        ("cpu", "2,5", ("cpu", "2,5")),
        ("cuda", "2,5", ("cuda", "2,5")),
        ("cuda:1", "2,5", ("cuda", "5")),
        ("cuda:1", "", ("cuda", "1")),
        ("cuda:0", "GPU-a", ("cuda", "GPU-a")),
    ],
)
def test_a_process_sees_the_gpu_that_it_is_to_use(monkeypatch, device, visible, want):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert (see_one_gpu(device), os.environ["CUDA_VISIBLE_DEVICES"]) == want
