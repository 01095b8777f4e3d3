"""Targets of the files that come from elsewhere: weights, backbones and their tokenizers."""

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path

import mutations as m
import torch
from target import Target, one

from store_engine.config import ModelConfig
from store_engine.model.backbones.backbone import Backbone
from store_engine.model.backbones.hf_layout import transformer_layout
from store_engine.model.weights import load_weights, save_weights
from store_engine.text.text_vocabulary import TextVocabulary
from store_engine.text.vocabulary import backbone_vocabulary

HAS_TOKENIZERS = importlib.util.find_spec("tokenizers") is not None
HAS_GGUF = importlib.util.find_spec("gguf") is not None
TEXT = "The Red Ball of Ünïcödé 日本 \u2603, 12345 in 2014's <|endoftext|>"


def backbone_targets() -> Iterator[Target]:
    """Those whose libraries are installed."""
    yield from (_weights(), _hf_folder(), _sentencepiece())
    if HAS_TOKENIZERS:
        yield _tokenizer_json()
    if HAS_GGUF:
        yield _gguf()


def _weights() -> Target:
    def model() -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.LayerNorm(3))

    def load(path: Path) -> None:
        load_weights(model(), path)

    def write(path: Path) -> None:
        save_weights(model().state_dict(), path)

    return one("weights", "model.safetensors", load, write, m.safetensors, m.safetensors, m.blind)


_MODEL = ModelConfig(
    hidden_size=8,
    num_layers=1,
    num_heads=2,
    num_kv_heads=1,
    head_dim=4,
    intermediate_size=8,
    tie_text_head=False,
)


def _tensors() -> dict[str, torch.Tensor]:
    """Random weights of a tiny Llama, by Hugging Face's names."""
    shapes = {"model.embed_tokens.weight": (20, 8), "lm_head.weight": (20, 8)}
    for _, parts in transformer_layout(_MODEL):
        shapes |= parts
    return {name: torch.rand(shape) for name, shape in shapes.items()}


def _hf_folder() -> Target:
    config = {
        "model_type": "llama",
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 4,
        "intermediate_size": 8,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
    }
    llama3 = {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0}
    llama3 |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 64}

    def make_seeds(root: Path) -> None:
        tensors = _tensors()
        for name, changes in (("one", {}), ("shards", {"rope_parameters": llama3})):
            (root / name).mkdir()
            (root / name / "config.json").write_text(json.dumps(config | changes))
        save_weights(tensors, root / "one" / "model.safetensors")
        names = list(tensors)
        shards = {"a.safetensors": names[:4], "b.safetensors": names[4:]}
        for file, part in shards.items():
            save_weights({name: tensors[name] for name in part}, root / "shards" / file)
        index = {"weight_map": {name: file for file, part in shards.items() for name in part}}
        (root / "shards" / "model.safetensors.index.json").write_text(json.dumps(index))

    def load(folder: Path) -> None:
        backbone = Backbone(folder)
        for _ in backbone.weights(backbone.vocab_size):
            pass

    tree, tensors = (m.json_tree, m.json_tree, m.text, m.blind), (m.safetensors, m.blind)
    damages = {"config.json": tree, "model.safetensors.index.json": tree}
    damages |= dict.fromkeys(("model.safetensors", "a.safetensors", "b.safetensors"), tensors)
    return Target("Hugging Face folder", load, make_seeds, damages)


def _sentencepiece() -> Target:
    def make_seeds(root: Path) -> None:
        import sentencepiece

        texts = [TEXT, "Title é 日本", "ﬁ ½ ²"] * 10
        for name in ("ours", "theirs"):
            (root / name).mkdir()
        TextVocabulary.train(texts, 300).save(root / "ours")
        sentencepiece.SentencePieceTrainer.train(  # with a table that normalises
            sentence_iterator=iter(texts),
            model_prefix=str(root / "theirs" / "text"),
            vocab_size=300,
            model_type="unigram",
            normalization_rule_name="nmt_nfkc",
            byte_fallback=True,
            hard_vocab_limit=False,
            minloglevel=2,
        )
        (root / "theirs" / "text.vocab").unlink()

    def load(folder: Path) -> None:
        vocabulary = TextVocabulary.load(folder / "text.model")
        vocabulary.decode(vocabulary.encode(TEXT + " ﬁ ½ ²"))
        vocabulary.encode("")

    return Target("SentencePiece model", load, make_seeds, {"text.model": (m.blind,)})


def _tokenizer_json() -> Target:
    """Tokenizers of the common kinds; the loader may refuse a kind, but not crash on it."""

    def make_seeds(root: Path) -> None:
        import tokenizers
        from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

        special = ["<|endoftext|>", "[UNK]"]
        byte_level = tokenizers.Tokenizer(models.BPE())
        byte_level.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        byte_level.decoder = decoders.ByteLevel()
        byte_level.post_processor = processors.ByteLevel()
        byte_level.normalizer = normalizers.NFC()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=300, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        )
        byte_level.train_from_iterator([TEXT] * 5, trainer)
        llama = tokenizers.Tokenizer(
            models.BPE({"<unk>": 0, "a": 1, "▁": 2, "▁a": 3, "<0x41>": 4, "<|endoftext|>": 5},
                       [("▁", "a")], unk_token="<unk>", byte_fallback=True, fuse_unk=True)
        )  # fmt: skip
        llama.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
        llama.decoder = decoders.Sequence(
            [
                decoders.Replace("▁", " "),
                decoders.ByteFallback(),
                decoders.Fuse(),
                decoders.Strip(" ", 1, 0),
            ]
        )
        qwen = tokenizers.Tokenizer.from_str(byte_level.to_str())
        qwen.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(tokenizers.Regex(r"\p{N}{1,3}|\s+(?!\S)|\p{L}+"), "isolated"),
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        for name, tokenizer in (("bytes", byte_level), ("llama", llama), ("qwen", qwen)):
            (root / name).mkdir()
            tokenizer.save(str(root / name / "tokenizer.json"))
            config = {"eos_token": "<|endoftext|>", "bos_token": None}
            (root / name / "tokenizer_config.json").write_text(json.dumps(config))

    def load(folder: Path) -> None:
        vocabulary = backbone_vocabulary(folder)
        vocabulary.decode(vocabulary.encode(TEXT))
        vocabulary.encode("")
        vocabulary.save(folder)

    tree = (m.json_tree, m.json_tree, m.json_tree, m.text, m.blind)
    return Target(
        "tokenizer.json", load, make_seeds, {"tokenizer.json": tree, "tokenizer_config.json": tree}
    )


def _gguf() -> Target:
    def write(path: Path) -> None:
        import gguf

        writer = gguf.GGUFWriter(path, "llama")
        for name, value in {
            "embedding_length": 8,
            "block_count": 1,
            "feed_forward_length": 8,
            "attention.head_count": 2,
            "attention.head_count_kv": 1,
            "attention.key_length": 4,
        }.items():
            writer.add_uint32(f"llama.{name}", value)
        writer.add_layer_norm_rms_eps(1e-6)
        writer.add_rope_freq_base(10000.0)
        tokens = [*map(chr, range(97, 114)), "ab", "<|endoftext|>", "!"]
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("smollm")
        writer.add_token_list(tokens[:20])
        writer.add_token_types([1] * 18 + [3, 1])
        writer.add_token_merges(["a b"])
        writer.add_eos_token_id(18)
        names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 1)
        for name, tensor in _tensors().items():
            writer.add_tensor(names.get_name(name, (".weight", ".bias")), tensor.numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()

    def load(path: Path) -> None:
        backbone = Backbone(path)
        for _ in backbone.weights(backbone.vocab_size):
            pass
        vocabulary = backbone.vocabulary()
        vocabulary.decode(vocabulary.encode("abc"))

    return one("gguf", "model.gguf", load, write, m.blind)
