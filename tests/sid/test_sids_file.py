import numpy as np
import pytest

from store_engine.config import load_config
from store_engine.errors import InputError
from store_engine.sid.sids_file import read_sids_file, read_sids_of

GOOD = "item_id,code_0,code_1\nb,1,2\nextra,3,3\na,0,15\n"


def read(tmp_path, text, item_ids=("a", "b"), num_codes=2):
    path = tmp_path / "sids.csv"
    path.write_text(text)
    return read_sids_file(path, "item_id", item_ids, num_codes, codebook_size=16)


def test_codes_are_in_the_catalogues_order(tmp_path):
    sids = read(tmp_path, GOOD)
    assert sids.tolist() == [[0, 15], [1, 2]]
    assert sids.dtype == np.int32


def test_the_file_is_looked_for_in_the_data_folder(tmp_path):
    (tmp_path / "own.csv").write_text(GOOD)
    overrides = [f"data.path={tmp_path}", "tokenizer.sids_file=own.csv", "tokenizer.num_codes=1"]
    assert read_sids_of(load_config(None, overrides), ["b"]).tolist() == [[1]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("item_id,code_0,code_1\nb,1,2\n", r"1 of 2 items of the catalogue have no SID.*'a'"),
        ("item_id,code_0,code_1\na,1,2\nb,1,2\na,1,2\n", r"csv line 2: item 'a' is twice"),
        ("item_id,code_0,code_1\na,1,2\nb,1,16\n", r"csv line 3: code_1 must be in \[0, 16\)"),
        ("item_id,code_0,code_1\na,1,2\nb,-1,1\n", r"csv line 3: code_0 must .* got '-1'"),
        ("item_id,code_0,code_1\na,1,2\nb,x,1\n", r"csv line 3: code_0 must .* got 'x'"),
        ("item_id,code_0,code_1\na,1,2\nb,1.5,1\n", r"csv line 3: code_0 must .* got '1.5'"),
        ("item_id,code_0,code_1\na,1,2\nb,,1\n", r"csv line 3: code_0 is empty"),
        ("item_id,code_0,code_1\na,1,2\nb,99999999999999999999,1\n", r"line 3: code_0 must be"),
        ("item_id,code_0\na,1\nb,2\n", r"code_1"),
    ],
    ids=["missing", "twice", "large", "negative", "word", "fraction", "empty", "huge", "no column"],
)
def test_what_is_wrong_is_named(text, message, tmp_path):
    with pytest.raises(InputError, match=message):
        read(tmp_path, text)


def test_a_file_has_no_distances():
    override = ["tokenizer.sids_file=x.csv", "tokenizer.collisions=reassign"]
    with pytest.raises(InputError, match=r"no distances; take 'suffix' or 'share'"):
        load_config(None, override)


def test_a_file_goes_with_rows_of_items():
    config = load_config(None, ["tokenizer.sids_file=x.csv", "tokenizer.last_level=item"])
    assert config.tokenizer.sids_file == "x.csv"
