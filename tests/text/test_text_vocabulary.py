import os
import random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from store_engine.errors import InputError
from store_engine.text.text_vocabulary import TextVocabulary

TEXTS = [
    f"title: the {color} {thing} of size {n}"
    for n in range(20)
    for color in ("red", "green")
    for thing in ("ball", "house")
]


@pytest.fixture(scope="module")
def vocabulary() -> TextVocabulary:
    return TextVocabulary.train(TEXTS, 300)


@pytest.mark.parametrize(
    "text", ["the red ball", "", "  two  spaces ", "Ünïcödé 日本 ☃", "tab\tand\nline", "ﬁ ½"]
)
def test_text_comes_back(vocabulary, text):
    ids = vocabulary.encode(text)
    assert all(0 <= i < len(vocabulary) for i in ids)
    assert vocabulary.decode(ids) == text


def test_ids(vocabulary):
    assert (vocabulary.bos_id, vocabulary.eos_id) == (1, 2)
    assert len(vocabulary) == 300
    control = [vocabulary.bos_id, *vocabulary.encode("ball"), vocabulary.eos_id, 0]
    assert vocabulary.decode(control) == "ball"


def test_known_words_are_short(vocabulary):
    assert len(vocabulary.encode("the green house")) < len(vocabulary.encode("qwz xyzzy plugh"))


def test_training_is_deterministic(vocabulary):
    assert TextVocabulary.train(iter(TEXTS), 300).model == vocabulary.model


def test_long_texts_are_not_skipped():
    text = "x" * 5000
    vocabulary = TextVocabulary.train([text], 270)
    assert vocabulary.decode(vocabulary.encode(text)) == text
    assert len(vocabulary.encode(text)) < 2500


def test_tiny_catalogue_lowers_the_size():
    with pytest.warns(UserWarning, match=r"gives 26\d pieces, fewer than text_vocab_size = 2048"):
        vocabulary = TextVocabulary.train(["ab ab ab"], 2048)
    assert 260 <= len(vocabulary) < 270
    assert vocabulary.decode(vocabulary.encode("ab")) == "ab"


@pytest.mark.parametrize(
    ("texts", "size", "message"),
    [
        ([], 300, "needs text, got none"),
        (["", ""], 300, "needs text, got none"),
        (TEXTS, 100, r"text_vocab_size must be at least 264 .*, got 100"),
        (TEXTS, 263, r"text_vocab_size must be at least 264 .*, got 263"),
        (TEXTS, 0, r"text_vocab_size must be at least 264 .*, got 0"),
    ],
    ids=["no texts", "empty texts", "too small", "one too small", "nothing"],
)
def test_train_rejects(texts, size, message):
    with pytest.raises(InputError, match=message):
        TextVocabulary.train(texts, size)


def test_ids_out_of_range(vocabulary):
    for ids in ([300], [-1]):
        with pytest.raises(ValueError, match=r"ids must be in \[0, 300\)"):
            vocabulary.decode(ids)


def test_save_and_load(vocabulary, tmp_path):
    vocabulary.save(tmp_path)
    loaded = TextVocabulary.load(tmp_path / "text.model")
    assert loaded.model == vocabulary.model
    assert loaded.encode("red house") == vocabulary.encode("red house")
    assert [p.name for p in tmp_path.iterdir()] == ["text.model"]


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x00" * 100])
def test_load_rejects(tmp_path, content):
    path = tmp_path / "text.model"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"text\.model: not a SentencePiece model"):
        TextVocabulary.load(path)


def test_load_rejects_a_torn_model(vocabulary, tmp_path):
    path = tmp_path / "text.model"
    path.write_bytes(vocabulary.model[: len(vocabulary.model) // 2])
    with pytest.raises(InputError, match="not a SentencePiece model"):
        TextVocabulary.load(path)


def test_load_rejects_a_missing_file(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        TextVocabulary.load(tmp_path / "text.model")


def chinese(num_letters, num_titles=400):
    """Titles of letters whose frequencies fall as those of a language."""
    rng = random.Random(0)
    letters = [chr(0x4E00 + n) for n in range(num_letters)]
    weights = [1 / (n + 1) for n in range(num_letters)]
    return ["".join(rng.choices(letters, weights, k=12)) + f" {n}" for n in range(num_titles)]


@pytest.mark.parametrize("size", [264, 265, 300, 512, 2048])
def test_more_letters_than_room(size):
    """Each letter of 5,000 comes back, the common ones as pieces, the others as bytes."""
    texts = [*chinese(3000), "".join(map(chr, range(0x4E00, 0x4E00 + 5000)))]
    vocabulary = TextVocabulary.train(texts, size)
    assert len(vocabulary) == size
    assert all(vocabulary.decode(vocabulary.encode(text)) == text for text in texts)
    assert TextVocabulary.train(texts, size).model == vocabulary.model
    common, rare = vocabulary.encode(chr(0x4E00)), vocabulary.encode(chr(0x4E00 + 4999))
    assert len(common) < len(rare) or size < 300


def test_a_larger_vocabulary_writes_shorter():
    texts = chinese(3000)
    lengths = []
    for size in (264, 512, 1024, 2048):
        vocabulary = TextVocabulary.train(texts, size)
        lengths.append(sum(len(vocabulary.encode(text)) for text in texts))
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[-1] < 0.6 * lengths[0]


@example(["\x0b", "\r\x0c"], 264)
@example(["0\x0b", "\r\x0c"], 264)
@given(st.lists(st.text(min_size=1), min_size=1, max_size=5), st.integers(264, 400))
@pytest.mark.filterwarnings("ignore:the text gives")
def test_any_text_trains_and_comes_back(texts, size):
    texts = [text.replace("\u2581", "_") for text in texts]
    vocabulary = TextVocabulary.train([*texts, "a"], size)
    for text in texts:
        assert vocabulary.decode(vocabulary.encode(text)) == text


@pytest.mark.parametrize("kind", ["folder", "fifo"])
def test_load_rejects_what_is_no_regular_file(tmp_path, kind):
    path = tmp_path / "text.model"
    path.mkdir() if kind == "folder" else os.mkfifo(path)
    with pytest.raises(InputError, match=r"text\.model: must be a regular file"):
        TextVocabulary.load(path)
