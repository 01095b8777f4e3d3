import numpy as np
import pytest
import torch

from store_engine.config import load_config
from store_engine.data.load import load_dataset
from store_engine.model.attention import PackedSequences
from store_engine.model.store_model import StoreModel
from store_engine.sid.dense_tokenizer import (
    DenseTokenizer,
    ItemTexts,
    contrastive_loss,
    encode_catalog,
    tokenizer_batch,
)
from store_engine.text.text_vocabulary import TextVocabulary


@pytest.fixture(scope="module")
def vocabulary_and_texts():
    """The synthetic catalogue of tiny.toml as token ids."""
    config = load_config("configs/tiny.toml")
    catalog = load_dataset(config.data).catalog
    words = [text for column in catalog.fields.values() for text in column]
    vocabulary = TextVocabulary.train(words, 300)
    return vocabulary, ItemTexts(catalog, vocabulary, config.data.max_text_tokens)


@pytest.fixture
def texts(vocabulary_and_texts):
    return vocabulary_and_texts[1]


@pytest.fixture
def tokenizer(vocabulary_and_texts):
    """The model of tiny.toml with random weights, in eval mode; its palette has two codes."""
    torch.manual_seed(0)
    config = load_config("configs/tiny.toml")
    return DenseTokenizer(StoreModel(config.model, len(vocabulary_and_texts[0])), 2).eval()


def test_text_is_rebuilt_from_the_dense_tokens_alone(tokenizer, texts):
    batch = tokenizer_batch(texts, [0, 1], 2)
    losses, vectors = tokenizer(batch)
    # zeros in the place of the dense tokens: nothing else carries the content, so losses change
    embeddings = tokenizer.model.embed(batch.text.tokens)
    embeddings = embeddings.index_fill(0, batch.filled_slots, 0.0)
    hidden = tokenizer.model.hidden_states(embeddings, batch.text_sequences)
    blind = tokenizer.model.target_losses(hidden, batch.text.targets)
    assert ((losses - blind).abs() > 1e-5).float().mean() > 0.9
    # and the first item's text plays no part in the second's vectors and losses
    alone_losses, alone = tokenizer(tokenizer_batch(texts, [1], 2))
    torch.testing.assert_close(alone[0], vectors[1], atol=1e-5, rtol=1e-4)
    of_second = torch.repeat_interleave(batch.item_of_document, batch.text.cu_seqlens.diff()) == 1
    of_second = of_second[batch.text.targets >= 0]
    torch.testing.assert_close(alone_losses, losses[of_second], atol=1e-5, rtol=1e-4)


def test_gradients_flow_from_the_text_into_the_palette_through_the_dense_tokens_alone(
    tokenizer, texts
):
    batch = tokenizer_batch(texts, [3, 4, 5], 2)
    losses, vectors = tokenizer(batch)
    (of_vectors,) = torch.autograd.grad(losses.sum(), [vectors], retain_graph=True)
    (of_palette,) = torch.autograd.grad(losses.sum(), [tokenizer.palette.weight], retain_graph=True)
    (chained,) = torch.autograd.grad(vectors, [tokenizer.palette.weight], of_vectors)
    assert (of_vectors.abs().sum(-1) > 0).all()  # every dense token of every item
    assert (of_palette.abs().sum(-1) > 0).all()
    torch.testing.assert_close(of_palette, chained)


def test_encoding_does_not_depend_on_the_batch(tokenizer, texts):
    few, many = (encode_catalog(tokenizer, texts, 2, batch_size=b) for b in (7, 120))
    np.testing.assert_allclose(few, many, atol=1e-5)


def test_contrastive_loss_prefers_vectors_that_differ():
    apart = torch.eye(6).view(3, 2, 6)
    alike = torch.ones(3, 2, 6)
    assert contrastive_loss(apart, 0.07) < 1e-4
    want = np.log(2) + np.log(3)  # nothing tells 2 aspects and 3 items apart
    assert contrastive_loss(alike, 0.07).item() == pytest.approx(want, abs=1e-5)


def test_palette_queries_see_the_whole_content(tokenizer, texts):
    batch = tokenizer_batch(texts, [0], 2)
    tokens = batch.content_tokens
    changed = tokens.clone()
    changed[0] = (changed[0] + 7) % tokenizer.model.text_vocab_size
    sequences = PackedSequences(torch.tensor([0, len(tokens)]))
    one, other = (tokenizer.encode(t, sequences, batch.palette_slots) for t in (tokens, changed))
    assert ((one - other).abs().amax(-1) > 0).all()


def test_partners_draw_items_together_and_are_no_negatives():
    torch.manual_seed(0)
    vectors = torch.randn(4, 2, 8)
    partners = torch.tensor([1, 0, 3, 2])
    near = vectors.clone()
    near[1], near[3] = near[0], near[2]
    loss = [contrastive_loss(v, 0.1, partners) for v in (vectors, near)]
    assert loss[1] < loss[0]
    # by hand: the third term finds the partner among the others, the second leaves it out
    unit = torch.nn.functional.normalize(vectors, dim=-1)
    similarity = torch.einsum("ind,jnd->nij", unit, unit) / 0.1
    want = contrastive_loss(vectors, 0.1)
    plain = (similarity.logsumexp(-1) - similarity.diagonal(dim1=1, dim2=2)).mean()
    others, chosen = [], []
    for code in range(2):
        for item in range(4):
            row, partner = similarity[code, item], int(partners[item])
            kept = [j for j in range(4) if j != partner]
            others.append(row[kept].logsumexp(0) - row[item])
            rest = [j for j in range(4) if j != item]
            chosen.append(row[rest].logsumexp(0) - row[partner])
    want = want - plain + torch.stack(others).mean() + torch.stack(chosen).mean()
    torch.testing.assert_close(loss[0], want)
