import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from engines import BOS

from store_engine import Engine, InputError, ItemTrie, load_run
from store_engine.integrations.export_run import export_run, sid_tokens
from store_engine.integrations.import_run import import_run
from store_engine.integrations.logits_processor import TrieLogitsProcessor
from store_engine.model.backbones.backbone import Backbone
from store_engine.runs.run import Run
from store_engine.runs.run_directory import RunDirectory

transformers = pytest.importorskip("transformers")


@pytest.fixture
def run(run_dir):
    return load_run(run_dir)


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    """Where the first test of the module exports to."""
    return tmp_path_factory.mktemp("once") / "exported"


@pytest.fixture
def exported(run, once, tmp_path):
    """The folder of `run`, which is the same run in every test; each gets a copy to damage."""
    if not once.exists():
        export_run(run, once)
    return shutil.copytree(once, tmp_path / "exported")


def load(folder):
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    return model.eval(), transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)


def change(run_dir, **sections):
    """Writes other values into a run's config; `model={"norm_eps": 0.1}`."""
    with RunDirectory.open_to_write(run_dir) as directory:
        config = directory.read_config()
        for name, values in sections.items():
            section = dataclasses.replace(getattr(config, name), **values)
            config = dataclasses.replace(config, **{name: section})
        directory.write_config(config)


def test_the_files(exported):
    assert {path.name for path in exported.iterdir()} == {
        *("config.json", "generation_config.json", "model.safetensors", "README.md"),
        *("tokenizer.json", "tokenizer_config.json", "sids.json", "trie.bin", "store_engine"),
    }
    assert {path.name for path in (exported / "store_engine").iterdir()} == {
        *("run.json", "config.toml", "items.jsonl", "sids.npz", "text.model"),
    }
    modes = {path.stat().st_mode & 0o777 for path in exported.rglob("*") if path.is_file()}
    assert len(modes) == 1  # who may read one may read all


def test_transformers_recommends_as_the_engine_does(run, exported):
    """With what the folder holds, and of ours the constraint alone."""
    model, tokenizer = load(exported)
    sids = json.loads((exported / "sids.json").read_text())
    history = ["item 3", "item 1", "item 4"]
    text = "".join(token for item in history for token in sids[item])
    prompt = tokenizer(text, return_tensors="pt")
    assert prompt.input_ids[0, 0] == BOS
    assert prompt.input_ids.shape == (1, 10)
    trie = ItemTrie.load(exported / "trie.bin")
    text_size = model.config.store_engine["text_vocab_size"]
    out = model.generate(
        **prompt,
        max_new_tokens=3,
        num_beams=30,
        num_return_sequences=30,
        length_penalty=0.0,
        logits_processor=[TrieLogitsProcessor(trie, text_size)],
    )
    items_of = {}  # several may share a SID
    for item, sid in sids.items():
        items_of.setdefault(tuple(tokenizer.convert_tokens_to_ids(sid)), []).append(item)
    found = [item for row in out[:, 10:].tolist() for item in items_of[tuple(row)]]
    want = Engine.load(run, dtype="float32").recommend([history], 30)[0]
    assert found[:30] == [one.item_id for one in want]


def test_the_tokenizer_reads_the_catalogue_as_ours_does(run, exported):
    _, tokenizer = load(exported)
    for title in run.catalog.fields["title"]:
        ids = tokenizer(title, add_special_tokens=False).input_ids
        assert ids == run.vocabulary.encode(title)
    assert tokenizer.convert_tokens_to_ids(["<a_0>", "<b_0>", "<c_6>"]) == [300, 306, 317]


def test_sids_are_spelled_as_tokens(run):
    spelled = sid_tokens(run.sid_table)
    assert list(spelled) == list(run.catalog.item_ids)
    a, b, c = run.sid_table.sids[7].tolist()
    assert spelled["item 7"] == [f"<a_{a}>", f"<b_{b}>", f"<c_{c}>"]


def test_nothing_joins_a_users_beam_search(exported):
    assert json.loads((exported / "generation_config.json").read_text()).keys() <= {
        *("_from_model_config", "bos_token_id", "pad_token_id", "do_sample"),
        "transformers_version",
    }


def test_weights_are_sharded_by_size(run, tmp_path):
    export_run(run, tmp_path / "many", max_shard_size="40KB")
    shards = sorted((tmp_path / "many").glob("model-*.safetensors"))
    assert len(shards) > 2
    import_run(tmp_path / "many", tmp_path / "back")
    assert_same_recommendations(run, tmp_path / "back")


def assert_same_recommendations(run, other_dir):
    histories = [["item 3", "item 1"], [], ["item 59"] * 9]
    ours = Engine.load(load_run(run.directory.root)).recommend(histories, 20)
    assert Engine.load(other_dir).recommend(histories, 20) == ours


def test_a_run_comes_back(run, exported, tmp_path):
    back = import_run(exported, tmp_path / "new" / "back")
    assert_same_recommendations(run, tmp_path / "new" / "back")
    assert back.catalog == run.catalog
    assert back.histories.num_users == 0
    assert back.config == dataclasses.replace(run.config, run_dir=str(tmp_path / "new" / "back"))
    for name, tensor in run.model.state_dict().items():
        assert torch.equal(tensor, back.model.state_dict()[name])
    # and may go out again
    export_run(back, tmp_path / "again")
    for name in ("model.safetensors", "tokenizer.json", "sids.json", "trie.bin", "config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (exported / name).read_bytes()


def test_what_others_trained_on_comes_back_as_they_left_it(exported, tmp_path):
    model, _ = load(exported)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.01)
        model.lm_head.weight[3] += 1  # no longer the embedding
    model.save_pretrained(exported)
    back = import_run(exported, tmp_path / "back")
    assert not back.config.model.tie_text_head
    head = back.model.text_head.weight
    assert torch.equal(head, model.lm_head.weight[:300])
    tokens = torch.randint(300, 318, (1, 12))
    export_run(back, tmp_path / "again")
    again, _ = load(tmp_path / "again")
    torch.testing.assert_close(again(tokens).logits, model(tokens).logits)


def test_no_path_of_this_machine_and_nobodys_history_leaves_it(run_dir, tmp_path):
    secrets = ("/home/alice/secret", "/data/alice/model")
    change(run_dir, data={"path": secrets[0]}, model={"backbone": secrets[1]})
    run = load_run(run_dir)
    metrics = {"config": dataclasses.asdict(run.config)}
    with RunDirectory.open_to_write(run_dir) as directory, directory.writing(directory.metrics):
        directory.metrics.write_text(json.dumps(metrics))
    with pytest.raises(InputError, match=r"metrics\.json: not the metrics of a run"):
        export_run(load_run(run_dir), tmp_path / "exported")
    (run_dir / "metrics.json").unlink()
    export_run(load_run(run_dir), tmp_path / "exported")
    for path in (tmp_path / "exported").rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert b"alice" not in content, path
            assert str(run_dir).encode() not in content, path
    assert not list((tmp_path / "exported").rglob("histories*"))


def test_the_export_is_a_backbone(run, exported):
    backbone = Backbone(exported)
    vocabulary = backbone.vocabulary()
    assert len(vocabulary) == 300  # the text's: a new run has codes of its own
    assert vocabulary.encode("Title") == run.vocabulary.encode("Title")
    weights = dict(backbone.weights(300))
    assert torch.equal(weights["text_embedding.weight"], run.model.text_embedding.weight)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: (d / "store_engine" / "run.json").unlink(), "no run.json"),
        (lambda d: (d / "store_engine" / "items.jsonl").unlink(), "items.jsonl: missing"),
        (lambda d: cut(d / "store_engine" / "sids.npz"), "sids.npz: changed or damaged"),
        (lambda d: cut(d / "store_engine" / "text.model"), "text.model: changed or damaged"),
        (lambda d: edit(d / "store_engine" / "config.toml"), "config.toml: changed or damaged"),
        (lambda d: cut(d / "model.safetensors"), "model.safetensors: not a readable safetensors"),
        (lambda d: (d / "config.json").unlink(), "config.json"),
        (lambda d: rewrite(d / "config.json", vocab_size=5, num_hidden_layers=1), "no place in"),
        (lambda d: rewrite(d / "config.json", num_hidden_layers=3), "no tensor"),
        (lambda d: rewrite(d / "config.json", tie_word_embeddings=True), "head of their own"),
        (lambda d: fill(d, "lm_head.weight", np.nan), "holds NaN or infinity"),
        (lambda d: grow(d), "'code_embedding.weight' must be"),
    ],
)
def test_a_damaged_folder_is_refused_and_leaves_nothing(damage, message, exported, tmp_path):
    damage(exported)
    with pytest.raises(InputError, match=message):
        import_run(exported, tmp_path / "back")
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("back")]


def cut(path):
    path.write_bytes(path.read_bytes()[:-9])


def edit(path):
    path.write_text(path.read_text().replace("norm_eps = 1e-06", "norm_eps = 2e-06"))


def rewrite(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def fill(folder, name, value):
    model, _ = load(folder)
    model.state_dict()[name][0, 0] = value
    model.save_pretrained(folder)


def grow(folder):
    """As after `resize_token_embeddings` for tokens of somebody's own."""
    model, _ = load(folder)
    model.resize_token_embeddings(330)
    model.save_pretrained(folder)


@pytest.mark.parametrize("kind", ["folder", "file", "run"])
def test_an_import_touches_nothing_that_is_there(kind, exported, run_dir, tmp_path):
    place = tmp_path / "place"
    if kind == "run":
        place = run_dir
    elif kind == "folder":
        place.mkdir()
    else:
        place.write_text("mine")
    before = sorted(path.stat().st_mtime_ns for path in [place, *place.rglob("*")])
    with pytest.raises(InputError, match="is there already"):
        import_run(exported, place)
    assert before == sorted(path.stat().st_mtime_ns for path in [place, *place.rglob("*")])


@pytest.mark.parametrize("what", ["a run", "nothing", "a file", "another's checkpoint"])
def test_what_is_no_export_is_refused(what, run_dir, tmp_path):
    folder = tmp_path / "folder"
    if what == "a run":
        folder = run_dir
    elif what == "a file":
        folder.write_text("")
    elif what == "another's checkpoint":
        folder.mkdir()
        (folder / "config.json").write_text("{}")
    with pytest.raises(InputError, match="not a folder that store-engine export wrote"):
        import_run(folder, tmp_path / "back")


def test_an_imported_run_says_that_it_cannot_be_measured(exported, tmp_path):
    from store_engine.evaluation.evaluate_run import evaluate_run, validate_run

    run = import_run(exported, tmp_path / "back")
    for measure in (evaluate_run, validate_run):
        with pytest.raises(InputError, match="has no histories to be measured on"):
            measure(Run(run.directory))
