"""The page of a run, read as a browser's parser reads it."""

import json
import re
import shutil
from html.parser import HTMLParser
from importlib.resources import files

import pytest

from store_engine.cli.main import main
from store_engine.data.histories import Histories
from store_engine.files.json_file import read_json, write_json
from store_engine.report.page import render_report
from store_engine.runs.run_directory import RunDirectory

VOID = {"meta", "link", "br", "input", "hr", "img"}


class Page(HTMLParser):
    """Tags in balance, the texts of scripts, ids, and all text that is shown."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.scripts, self.ids, self.text = [], [], [], [], ""
        self.urls = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        values = dict(attrs)
        assert not [name for name in values if name.startswith("on")], (tag, attrs)
        self.ids += [values["id"]] if "id" in values else []
        self.urls += [values[name] for name in ("src", "href") if name in values]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)
        elif self.open and self.open[-1] != "style":
            self.text += data


def test_every_section_is_there_and_nothing_breaks_out(measured_run):
    html = render_report(measured_run)
    page = Page(html)
    sections = ["verdict", "results", "training", "codes", "items", "examples", "latency", "run"]
    assert [name for name in page.ids if name in sections] == sections
    assert page.tags.count("script") == 2 and "img" not in page.tags and "b" in page.tags
    assert "document.title='broken'" in page.text  # shown as text
    assert "{{ 7 * 7 }}" in page.text and "\u202e" not in html and "\x1b" not in html


def test_the_page_needs_no_network(measured_run):
    html = render_report(measured_run)
    assert all(url.startswith(("#", "data:")) for url in Page(html).urls)
    assert not re.search(r"https?://|url\(|@import", html)


def test_the_points_of_the_map_are_the_items(measured_run):
    points = json.loads(Page(render_report(measured_run)).scripts[0])
    assert len(points["x"]) == len(points["title"]) == 60
    assert points["title"][0] == "</script><script>document.title='broken'</script>"
    assert points["title"][6] == "id 6"  # without a title the id stands there
    assert points["title"][7].endswith("…") and len(points["title"][7]) <= 90
    assert min(points["x"]) >= 0 and max(points["x"]) <= 800


def test_what_came_next_is_marked_as_often_as_it_is_found(measured_run):
    html = render_report(measured_run)
    drawn, hits = map(int, re.search(r"(\d+) test users were drawn.*?for (\d+)", html).groups())
    assert drawn == 20 and html.count('class="truth"') == min(hits, 3)


def test_a_run_without_metrics_or_model_shows_what_it_has(measured_run):
    (measured_run / "metrics.json").unlink()
    (measured_run / "model.safetensors").unlink()
    ids = Page(render_report(measured_run)).ids
    assert "training" in ids and "codes" in ids
    assert not {"results", "items", "latency"} & set(ids)


def test_a_run_that_has_just_begun_has_a_page(measured_run):
    for name in ("metrics.json", "model.safetensors", "sids.npz", "trie.bin", "train_log.jsonl"):
        (measured_run / name).unlink()
    assert Page(render_report(measured_run)).ids == ["run"]


def test_the_model_can_be_left_out(measured_run):
    assert "items" not in Page(render_report(measured_run, uses_model=False)).ids


def test_seeds_become_mean_and_deviation_and_other_settings_a_row(measured_run, tmp_path):
    other = shutil.copytree(measured_run, tmp_path / "seed 1")
    wider = shutil.copytree(measured_run, tmp_path / "wider")
    own = read_json(measured_run / "metrics.json")["metrics"]["recall@10"]
    for run, seed, change in ((other, 1, 0.1), (wider, 0, 0.2)):
        _rewrite(run, seed, change, "beam_width = 30" if run == wider else "")
    html = render_report(measured_run, [other, wider], uses_model=False)
    assert f"{own + 0.05:.4f} ± {0.1 / 2**0.5:.4f}" in html
    assert "this run (2 runs)" in html and "decoding.beam_width = 31" in html


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("protocol", "by user", "cannot be compared: its protocol is by user, not "),
        ("dataset", "<b>", "cannot be compared: its dataset is <b>, not fixture"),
    ],
)
def test_runs_on_other_data_are_refused(key, value, message, measured_run, tmp_path, capsys):
    other = shutil.copytree(measured_run, tmp_path / "other")
    with RunDirectory.open_to_write(other) as run, run.writing(run.metrics):
        write_json(run.metrics, read_json(run.metrics) | {key: value})
    assert main(["report", str(measured_run), "--compare", str(other)]) == 2
    assert message in capsys.readouterr().err
    assert not (measured_run / "report.html").exists()


def test_runs_on_the_same_users_say_nothing_of_users(measured_run, tmp_path):
    other = shutil.copytree(measured_run, tmp_path / "seed 1")
    _rewrite(other, 1, 0.1, "")
    html = render_report(measured_run, [other], uses_model=False)
    assert "this run (2 runs)" in html and "on the same users" not in html


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"num_users": 7}, "7 users and 60 items"),
        ({"num_items": 61}, "other events of 20 users and 61 items"),
        ({}, "other events of 20 users and 60 items"),
    ],
    ids=["users", "items", "events"],
)
def test_a_run_that_went_on_stands_beside_it_with_its_users(
    changed, told, measured_run, tmp_path, capsys
):
    later = shutil.copytree(measured_run, tmp_path / "later")
    own = read_json(measured_run / "metrics.json")["metrics"]["recall@10"]
    _rewrite(later, 0, 0.1, "")
    with RunDirectory.open_to_write(later) as run, run.writing(run.metrics, run.histories):
        write_json(run.metrics, read_json(run.metrics) | changed)
        histories = Histories.load(run.histories)
        Histories(histories.user_ids, histories.rows[::-1].copy(), histories.offsets).save(
            run.histories
        )
    html = render_report(measured_run, [later], uses_model=False)
    assert "Not all of these runs were measured on the same users" in html
    assert f"later was measured on {told}" in html
    assert f"the same settings, on {told}" in html
    assert "this run (2 runs)" not in html  # no mean over other users
    assert f"{own:.4f}" in html and f"{own + 0.1:.4f}" in html


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("ink", ["ink", "soft", "ours", "good", "look", "bad"])
@pytest.mark.parametrize("ground", ["page", "card"])
def test_text_stands_out(ink, ground, scheme):
    css = (files("store_engine.report") / "templates" / "page.css").read_text()
    light, dark = (dict(re.findall(r"--(\w+): (#\w{6})", part)) for part in css.split("@media")[:2])
    colours = light if scheme == "light" else dark
    bright, dim = sorted((_luminance(colours[name]) for name in (ink, ground)), reverse=True)
    assert (bright + 0.05) / (dim + 0.05) >= 4.5  # WCAG 2 AA


@pytest.mark.parametrize("number", [10**400, -(10**400), 1e307, -1e307, 0])
def test_a_log_may_hold_any_number(number, measured_run):
    entry = {
        "stage": "recommender",
        "step": 5,
        "loss": 1.0,
        "lr": 1,
        "tokens_per_s": 1,
        "wall_s": 1,
    }
    entry |= {"step": number} if type(number) is int else {"loss": number}
    with (measured_run / "train_log.jsonl").open("a") as log:
        log.write(json.dumps(entry) + "\n")
        log.write(json.dumps(entry | {"loss": -1e307}) + "\n")
    assert "NaN" not in render_report(measured_run, uses_model=False)


@pytest.mark.parametrize("content", [{}, {"metrics": 3}, {"primary": "none", "protocols": {}}])
def test_foreign_metrics_are_one_line(content, measured_run, capsys):
    with RunDirectory.open_to_write(measured_run) as run, run.writing(run.metrics):
        write_json(run.metrics, content)
    assert main(["report", str(measured_run), "--no-model"]) == 2
    assert "metrics.json: not what an evaluation" in capsys.readouterr().err


def test_the_verb_writes_into_the_run_and_over_no_file_of_it(measured_run, capsys):
    assert main(["report", str(measured_run), "--no-model"]) == 0
    assert capsys.readouterr().out.strip() == str(measured_run / "report.html")
    assert main(["report", str(measured_run), "--out", str(measured_run / "sids.npz")]) == 2
    assert "is a file of a run" in capsys.readouterr().err
    assert main(["check", str(measured_run)]) == 0


def _luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return sum(weight * p for weight, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def _rewrite(run_dir, seed, change, old):
    """Gives a copied run another seed, better figures and, if asked, another beam."""
    with RunDirectory.open_to_write(run_dir) as run:
        with run.writing(run.config):
            text = run.config.read_text().replace("[train]\nseed = 0", f"[train]\nseed = {seed}")
            run.config.write_text(text.replace(old, "beam_width = 31") if old else text)
        with run.writing(run.metrics):
            metrics = read_json(run.metrics)
            for of in (metrics, *metrics["protocols"].values()):
                of["metrics"] = {key: value + change for key, value in of["metrics"].items()}
            write_json(run.metrics, metrics)
