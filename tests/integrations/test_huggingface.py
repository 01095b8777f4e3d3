import pytest
import torch

from store_engine.integrations.huggingface import export_huggingface
from store_engine.model.attention import PackedSequences

transformers = pytest.importorskip("transformers")

LLAMA3 = {"rope_scaling": "llama3", "rope_factor": 4.0, "rope_original_tokens": 16}


@pytest.mark.parametrize(
    ("sizes", "changes"),
    [
        ((6, 5, 7), {}),
        ((6, 5, 7), {"tie_text_head": False, "num_kv_heads": 4, "rope_theta": 500.0}),
        ((4,), {"num_kv_heads": 1, "norm_eps": 1e-2, "head_dim": 16}),
        ((), {}),
        ((6, 5, 7), {"attention_bias": "all", **LLAMA3}),
        ((6, 5, 7), {"attention_bias": "qkv", "head_dim": 16, "rope_theta": 1e6}),
        ((6, 5, 7), {"qk_norm": True, "head_dim": 16, "tie_text_head": False}),
        ((6, 5, 7), {"qk_norm": True, "attention_bias": "all", **LLAMA3}),
    ],
    ids=["tied", "untied", "one-level", "text-only", "llama3", "qwen2", "qwen3", "qwen3-biases"],
)
def test_logits_equal_ours(make_model, sizes, changes, tmp_path):
    model = make_model(sizes, **changes)
    vocab_size = model.text_vocab_size + sum(sizes)
    tokens = torch.randint(0, vocab_size, (3, 40))
    export_huggingface(model, tmp_path)
    exported = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, local_files_only=True)
    family = "qwen3" if model.config.qk_norm else "llama"
    family = "qwen2" if model.config.attention_bias == "qkv" else family
    assert exported.config.model_type == family
    theirs = exported(tokens).logits
    assert theirs.shape == (3, 40, vocab_size)
    sequences = PackedSequences(torch.tensor([0, 40, 80, 120]))
    hidden = model.hidden_states(model.embed(tokens.flatten()), sequences).view(3, 40, -1)
    text = hidden @ model.text_head.weight.T
    levels = [model.level_logits(hidden, level) for level in range(len(sizes))]
    torch.testing.assert_close(theirs, torch.cat([text, *levels], -1), atol=1e-4, rtol=1e-4)


def test_saved_folder_loads_the_same(make_model, tmp_path):
    model = make_model()
    exported = export_huggingface(model, tmp_path, bos=3)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, local_files_only=True)
    tokens = torch.randint(0, 38, (2, 9))
    assert torch.equal(exported(tokens).logits, loaded(tokens).logits)
    assert loaded.config.bos_token_id == 3
    # nothing here may reach into a user's beam search
    generation = loaded.generation_config
    assert not generation.do_sample
    assert generation.eos_token_id is None
    assert generation.top_k in (None, 50)  # 50 is the library's own default, for sampling alone


def test_is_a_copy(make_model):
    model = make_model()
    exported = export_huggingface(model)
    exported.model.norm.weight.data.fill_(0)
    assert model.transformer.norm.weight.abs().min() > 0


def test_keeps_the_dtype(make_model):
    assert export_huggingface(make_model().bfloat16()).dtype == torch.bfloat16


def test_refuses_what_transformers_cannot_hold(make_model):
    model = make_model(hidden_size=34)
    with pytest.raises(ValueError, match="multiple of num_heads, got 34 and 4"):
        export_huggingface(model)
    model = make_model(qk_norm=True, attention_bias="qkv")
    with pytest.raises(ValueError, match="no family of transformers has qk_norm"):
        export_huggingface(model)
