import re
from pathlib import Path

import pytest

from benchmarks.decoding.cases import DEFAULT_CASES, MORE_CASES
from benchmarks.gpu_run.parts import PARTS
from benchmarks.gpu_run.predictions import PREDICTIONS, Prediction, check_prediction
from benchmarks.measuring.harness import COLUMNS
from benchmarks.ops.cases import all_cases
from benchmarks.training.task import MODELS


def test_every_prediction_is_of_a_part_that_runs():
    """A regex that no case has would stay "not measured" for ever."""
    every = {
        "kernels": [case.name for case in all_cases("cpu", has_decode=True)],
        "decode": [case.name for case in DEFAULT_CASES + MORE_CASES],
        "train": [f"{model},{dtype}" for model in MODELS for dtype in ("bfloat16",)],
    }
    every["search_profile"] = every["decode"]
    parts = {part.name: part for part in PARTS}
    for prediction in PREDICTIONS:
        command = parts[prediction.part].command
        names = every[Path(command[0]).stem]
        asked = command[command.index("--cases") + 1]
        found = [x for x in names if re.search(prediction.case, x) and re.search(asked, x)]
        assert found, prediction.what


@pytest.mark.parametrize(
    ("figures", "want"),
    [([], "not measured"), ([13.0], "held"), ([13.0, 17.0], "wrong"), ([11.9], "wrong")],
    ids=["none", "inside", "one-outside", "below"],
)
def test_a_prediction_is_held_against_the_rows(tmp_path, figures, want):
    rows = [f"kernels,ours,V=1,ms,ms,0,{x},0,1,f,m,t,c,d" for x in figures]
    rows += ["kernels,torch,V=1,ms,ms,0,1.0,0,1,f,m,t,c,d"]
    (tmp_path / "loss.csv").write_text("\n".join([",".join(COLUMNS), *rows]) + "\n")
    prediction = Prediction("it takes 12 to 16", "loss", "ours", "V=1$", "ms", 12, 16)
    assert check_prediction(tmp_path, prediction) == (want, figures)
