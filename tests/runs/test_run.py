import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from store_engine.decoding.engine import Engine
from store_engine.errors import InputError
from store_engine.runs.run import load_run
from store_engine.runs.run_directory import RunDirectory


def test_loads_what_was_saved(run_dir):
    run = load_run(run_dir)
    engine = Engine.load(run_dir, device="cpu", dtype="float32")
    same = Engine(
        run.model,
        run.catalog,
        run.sid_table.sids,
        bos=run.vocabulary.bos_id,
        max_history=8,
        config=run.config.decoding,
    )
    assert engine.config.beam_width == 30
    history = ["item 3", "item 4"]
    assert engine.recommend([history], 7) == same.recommend([history], 7)
    assert engine.recommend_rows([range(20)])[0].tolist() == (
        engine.recommend_rows([range(12, 20)])[0].tolist()
    )


def test_loads_in_the_dtype_asked_for(run_dir, histories):
    half = Engine.load(run_dir, device="cpu", dtype="bfloat16")
    assert half.model.code_head.weight.dtype == torch.bfloat16
    exact = Engine.load(run_dir, device="cpu", dtype="float32")
    assert exact.model.code_head.weight.dtype == torch.float32
    _, want = exact.recommend_rows(histories, 5)
    rows, logprobs = half.recommend_rows(histories, 5)
    assert (rows >= 0).all()
    np.testing.assert_allclose(logprobs, want, atol=0.5)  # bf16 has 8 bits


@pytest.mark.parametrize("dtype", [torch.int64, torch.complex64, torch.bool], ids=str)
def test_weights_that_are_no_floats_are_refused(run_dir, dtype):
    with RunDirectory.open_to_write(run_dir) as run, run.writing(run.model_weights):
        weights = load_file(run.model_weights)
        weights["transformer.norm.weight"] = weights["transformer.norm.weight"].to(dtype)
        save_file(weights, run.model_weights)
    with pytest.raises(InputError, match=r"norm\.weight' must be of type F32, BF16, F16, is "):
        _ = load_run(run_dir).model
