"""The main job from a pretrained checkpoint, in full and with LoRA."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from store_engine import Engine
from store_engine.cli.export import main as export
from store_engine.model.backbones.backbone import Backbone
from store_engine.training.log import read_log

tokenizers = pytest.importorskip("tokenizers")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.slow

SHORT = ["tokenizer.epochs=2", "recommender.epochs=2"]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    """A random Llama of tiny.toml's sizes with a byte-level tokenizer, in two shards or more."""
    path = tmp_path_factory.mktemp("backbone")
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    vocab = {token: i for i, token in enumerate(["<|endoftext|>", *sorted(alphabet)])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>"])
    tokenizer.save(str(path / "tokenizer.json"))
    (path / "tokenizer_config.json").write_text('{"eos_token": "<|endoftext|>"}')
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=264, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, intermediate_size=64, tie_word_embeddings=True,
        initializer_range=0.1,
    )  # fmt: skip
    theirs = transformers.LlamaForCausalLM(config)
    theirs.save_pretrained(path, max_shard_size="30KB")
    assert (path / "model.safetensors.index.json").exists()
    return path


def test_a_run_starts_from_a_backbone(backbone, tmp_path, train):
    run_dir = tmp_path / "run"
    every_task = ["recommender.scoring=1", "recommender.reconstruction=1"]
    train(run_dir, f"model.backbone={backbone}", *every_task, *SHORT)
    metrics = json.loads((run_dir / "metrics.json").read_text())
    assert metrics["invalid_items"] == metrics["missing_items"] == 0
    assert (run_dir / "tokenizer.json").exists()
    assert not (run_dir / "text.model").exists()
    # the run needs nothing but itself
    engine = Engine.load(run_dir)
    assert engine.model.text_vocab_size == 257
    (found,) = engine.recommend([list(engine.catalog.item_ids[:3])], k=5)
    assert len(found) == 5
    # and came from the backbone: so few steps leave its embeddings near where they were
    start = dict(Backbone(backbone).weights(257))["text_embedding.weight"]
    end = load_file(run_dir / "model.safetensors")["text_embedding.weight"]
    alike = torch.nn.functional.cosine_similarity(start, end, dim=1)
    assert alike.mean() > 0.5  # unrelated ones: 0

    out = tmp_path / "exported"
    assert export(["--run", str(run_dir), "--out", str(out)]) == 0
    exported = transformers.AutoModelForCausalLM.from_pretrained(out, local_files_only=True)
    assert exported.config.model_type == "llama"
    assert transformers.AutoTokenizer.from_pretrained(out, local_files_only=True)("a").input_ids


def test_lora_trains_the_same_under_zero_0_and_3_killed_and_resumed(
    backbone, tmp_path, train, train_until_killed
):
    lora = [f"model.backbone={backbone}", "train.lora_rank=4", "train.lora_alpha=8", *SHORT]
    losses, weights = [], []
    for stage in (0, 3):
        run_dir = tmp_path / f"zero{stage}"
        lora += ["--ds_config", f"configs/zero{stage}.json"]
        if stage == 3:
            train_until_killed(run_dir, "recommender", 12, *lora)
            lora.append("--resume")
        train(run_dir, *lora)
        losses.append([entry["loss"] for entry in read_log(run_dir / "train_log.jsonl")])
        weights.append(load_file(run_dir / "model.safetensors"))
    np.testing.assert_allclose(losses[0], losses[1], atol=1e-4, rtol=0)
    assert losses[0][-1] < losses[0][len(losses[0]) // 2]
    for name, tensor in Backbone(backbone).weights(257):
        end = weights[1][name]
        torch.testing.assert_close(end, weights[0][name], atol=2e-3, rtol=0)
        # adapted matrices moved, everything else of the backbone stands as it was
        assert torch.equal(end, tensor) == (not name.endswith("proj.weight")), name


def test_contradicting_sizes_are_one_line(backbone, tmp_path, refused):
    stderr = refused(
        f"run_dir={tmp_path / 'run'}", f"model.backbone={backbone}", "model.num_layers=4"
    )
    assert "model.num_layers = 4 contradicts" in stderr
    assert not (tmp_path / "run").exists()
