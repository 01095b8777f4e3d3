import numpy as np
import pytest
import torch

from store_engine.model.unified_vocabulary import UnifiedVocabulary

VOCABULARY = UnifiedVocabulary(10, (4, 3, 5))


def test_sizes_and_offsets():
    assert (VOCABULARY.num_levels, VOCABULARY.num_codes, len(VOCABULARY)) == (3, 12, 22)
    assert VOCABULARY.code_offsets == (0, 4, 7)
    assert VOCABULARY.level_offsets == (10, 14, 17)


def test_text_alone_has_no_levels():
    text = UnifiedVocabulary(10)
    assert (len(text), text.code_offsets, text.level_offsets) == (10, (), ())
    assert text.level_of(torch.tensor([0, 9])).tolist() == [-1, -1]


def test_ids_are_disjoint_and_fill_the_vocabulary():
    codes = [VOCABULARY.level_offsets[i] + c for i, s in enumerate((4, 3, 5)) for c in range(s)]
    assert codes == list(range(10, 22))


def test_arrays_and_tensors_agree():
    sids = np.array([[0, 2, 4], [3, 0, 1]], dtype=np.int32)
    ids = VOCABULARY.to_ids(sids)
    assert ids.tolist() == [[10, 16, 21], [13, 14, 18]]
    assert VOCABULARY.to_id_tensor(torch.from_numpy(sids).long()).tolist() == ids.tolist()


@pytest.mark.parametrize("token, level", [(0, -1), (9, -1), (10, 0), (13, 0), (14, 1)])
def test_an_id_says_its_level(token, level):
    ids = torch.tensor([[token, 21]])
    assert VOCABULARY.level_of(ids).tolist() == [[level, 2]]


def test_items_stand_behind_the_codes():
    vocabulary = UnifiedVocabulary(10, (4, 3, 5), 7)
    assert (vocabulary.item_offset, len(vocabulary), vocabulary.num_levels) == (22, 29, 3)
