"""An engine as the folder that other engines read, without a run."""

from collections.abc import Sequence
from pathlib import Path

from tokenizers import AddedToken, Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from store_engine._C import ItemTrie
from store_engine.decoding.engine import Engine
from store_engine.integrations.huggingface import export_huggingface
from store_engine.text.fast_tokenizer import code_tokens


def export_engine(engine: Engine, folder: Path, bos: int, more_tokens: Sequence[str] = ()) -> None:
    """Writes the LLM, a tokenizer and the trie, as `store-engine export` does of a run.

    The tokenizer only names tokens: no text is part of a search.

    Args:
        engine: Its model reads and writes codes alone; its catalogue has not changed.
        folder: There already.
        bos: Id of the text token that histories begin with.
        more_tokens: Names of tokens behind the codes, which the model does not know.
    """
    model, trie = engine.model, engine.trie.item_trie
    assert model.is_plain
    assert isinstance(trie, ItemTrie)
    exported = export_huggingface(model, bos=bos)
    exported.config.store_engine = {
        "text_vocab_size": model.text_vocab_size,
        "codebook_sizes": list(model.codebook_sizes),
        "is_plain": True,
    }
    exported.save_pretrained(folder)
    words = {f"word {i}": i for i in range(model.text_vocab_size)}
    tokenizer = Tokenizer(WordLevel(words, unk_token="word 0"))
    names = [*code_tokens(model.codebook_sizes), *more_tokens]
    tokenizer.add_tokens([AddedToken(name, normalized=False) for name in names])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=f"word {bos}")
    fast.save_pretrained(folder)
    trie.save(str(folder / "trie.bin"))
