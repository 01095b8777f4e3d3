import pytest

pytest.importorskip("transformers")
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.peers.export_engine import export_engine
from store_engine.integrations.exported_folder import read_exported
from store_engine.integrations.huggingface import huggingface_state


def test_the_folder_has_model_catalogue_and_tokens(make_engine, tmp_path):
    engine = make_engine()
    export_engine(engine, tmp_path, bos=1, more_tokens=("<end>",))
    trie, text_vocab_size = read_exported(tmp_path)
    assert text_vocab_size == engine.model.text_vocab_size
    assert list(trie.level_sizes) == engine.trie.level_sizes[1:]
    exported = AutoModelForCausalLM.from_pretrained(tmp_path).state_dict()
    for name, weight in huggingface_state(engine.model).items():
        assert exported[name].equal(weight), name
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    first = engine.model.vocabulary.level_offsets[1]
    assert tokenizer.convert_tokens_to_ids(["<b_0>", "<b_1>"]) == [first, first + 1]
    assert tokenizer.convert_tokens_to_ids("<end>") == engine.model.vocabulary.item_offset
    assert tokenizer.bos_token_id == 1
