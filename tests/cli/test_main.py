"""What all verbs share: help, exit statuses, the run directory, what reaches the terminal."""

import functools
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from store_engine import __version__
from store_engine.cli.main import (
    STATUSES,
    VERBS,
    add_overrides_argument,
    add_run_argument,
    claim_output,
    main,
    module_of,
    parser_of,
    print_json,
    run_verb,
)
from store_engine.errors import InputError

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "store_engine" / "cli"
MODULES = {path.stem for path in FOLDER.glob("*.py")}
FOUND = sorted(MODULES - {"main", "reference", "recommend_batch", "__init__"})
HEAVY = ("torch", "faiss", "deepspeed", "pyarrow", "sentencepiece", "rich", "numpy", "transformers")


def run(*arguments, **options):
    """Starts `store-engine` in a process of its own."""
    command = [sys.executable, "-m", "store_engine", *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | options.pop("env", {})
    options = {"capture_output": True, "cwd": ROOT, "timeout": 300} | options
    return subprocess.run(command, env=environment, **options)


def test_every_module_is_a_verb():
    assert set(FOUND) == set(map(module_of, VERBS))


@pytest.mark.parametrize("verb", VERBS)
def test_help_names_the_verb_and_shows_an_example(verb, capsys):
    with pytest.raises(SystemExit) as exit_:
        main([verb, "--help"])
    assert exit_.value.code == 0
    out = capsys.readouterr().out
    assert out.startswith(f"usage: store-engine {verb} ")
    assert out.count(f"store-engine {verb} ") >= 2
    statuses = out[out.index("\nexit status:\n") :].splitlines()[2:]
    assert [line.split()[0] for line in statuses] == [str(status) for status in STATUSES]


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]], ids=["nothing", "--help", "-h"])
def test_help_lists_the_verbs(arguments, capsys):
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert all(f"  {verb}" in out and what in out for verb, what in VERBS.items())


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"{__version__}\n"


@pytest.mark.parametrize(
    ("verb", "hint"),
    [
        ("recomend", "did you mean 'recommend'?"),
        ("trian", "did you mean 'train'?"),
        ("Train", "did you mean 'train'?"),
        ("add_items", "did you mean 'add-items'?"),
        ("../train", "did you mean 'train'?"),
        ("", "store-engine --help lists them"),
        ("\x1b[31mred", "store-engine --help lists them"),
        ("-x", "store-engine --help lists them"),
    ],
)
def test_an_unknown_verb_is_one_line_with_the_nearest(verb, hint, capsys):
    assert main([verb]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == f"error: no verb is named {verb!r}; {hint}\n"


@pytest.mark.parametrize(
    "statement",
    [
        "import store_engine.cli.main",
        "import store_engine",
        *(f"__import__('store_engine.cli.{name}')" for name in FOUND),
        "from store_engine.cli.reference import reference; reference()",
        "from store_engine.cli.main import main; main(['--help'])",
        "from store_engine.cli.main import main; main(['recommend', '--help'])",
    ],
)
def test_the_command_line_loads_nothing_heavy(statement):
    script = f"""
import sys
try:
    {statement}
except SystemExit:
    pass
print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.stderr.strip() == "[]"


def raising(error):
    def act(args):
        raise error

    return run_verb("verb", "", lambda parser: None, act, [])


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (InputError("x.csv: bad"), 2, "error: x.csv: bad"),
        (InputError("two\nlines\x1b[31m"), 2, r"error: two\nlines\x1b[31m"),
        (FloatingPointError("the loss is nan"), 1, "error: the loss is nan"),
        (PermissionError(13, "Permission denied", "a/b"), 2, "error: a/b: Permission denied"),
        (FileNotFoundError(2, "No such file", "a\x1b"), 2, "error: a: No such file"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_what_a_user_can_cause_is_one_line_and_a_status(error, status, line, capsys):
    assert raising(error) == status
    assert capsys.readouterr().err == f"{line}\n"


def test_what_a_user_cannot_cause_is_a_traceback():
    with pytest.raises(ZeroDivisionError):
        raising(ZeroDivisionError())


@pytest.mark.parametrize(
    ("argv", "want"),
    [
        (["R"], ("R", [])),
        (["--run", "R"], ("R", [])),
        (["--run=R", "a.b=1"], ("R", ["a.b=1"])),
        (["a.b=1", "--run", "R"], ("R", ["a.b=1"])),
        (["R", "a.b=1", "--flag", "c.d=2"], ("R", ["a.b=1", "c.d=2"])),
        (["R", "--flag", "a.b=1"], ("R", ["a.b=1"])),
        (["--flag", "--run", "R", "a.b=1", "c.d=2"], ("R", ["a.b=1", "c.d=2"])),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_the_run_directory_comes_first_or_by_its_flag(argv, want):
    seen = []

    def arguments(parser):
        add_run_argument(parser)
        add_overrides_argument(parser, "a.b=1")
        parser.add_argument("--flag", action="store_true")

    assert run_verb("verb", "", arguments, seen.append, argv) == 0
    assert (str(seen[0].run), seen[0].overrides) == want


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "the run directory is missing: RUN or --run DIR"),
        (["R", "--run", "S"], "one run directory is wanted, got R and S"),
        (["R", "S"], "unrecognized arguments: S"),
        (["R", "--\x1b[31m"], "no option is named --[31m"),
        (["--rnu", "R"], "no option is named --rnu; --run?"),
    ],
    ids=["none", "two", "another", "hostile", "near"],
)
def test_a_wrong_run_argument_is_status_2(argv, message, capsys):
    with pytest.raises(SystemExit) as exit_:
        run_verb("verb", "", add_run_argument, lambda args: None, argv)
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("name", ["gpu", "cuda:", "meta", "cuda:99", "xpu", ""])
def test_a_device_that_is_not_there_is_status_2(name, run_dir, capsys):
    argv = [str(run_dir), "--history", "", "--device", name]
    try:
        status = main(["recommend", *argv])
    except SystemExit as exit_:
        status = exit_.code
    assert status == 2
    assert "device" in capsys.readouterr().err


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
@pytest.mark.parametrize(
    "arguments",
    [
        ["recommend", "RUN", "--history-item", "ítem, [red]漢"],
        ["recommend", "RUN", "--history-item", "ítem, [red]漢", "--json"],
        ["recommend", "RUN", "--history", "漢"],
        ["tokenize", "RUN"],
        ["evaluate", "RUN"],
        ["plot", "漢/nowhere"],
        ["漢"],
    ],
    ids=["table", "json", "error", "tokenize", "evaluate", "no run", "no verb"],
)
def test_a_terminal_of_any_encoding_gets_its_answer(encoding, arguments, hostile_run, monkeypatch):
    """In this process, with streams of that encoding."""
    streams = [io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2)]
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])
    status = main([str(hostile_run) if one == "RUN" else one for one in arguments])
    out, err = (
        stream.buffer.getvalue().decode(encoding) for stream in streams if not stream.flush()
    )
    assert status in (0, 2)
    assert (status == 0) == bool(out)
    assert "Traceback" not in err
    assert not set("\x1b\x9b\x07") & set(out + err)


def test_a_reader_that_goes_away_ends_a_verb_quietly(tmp_path):
    """`| head`: the pipe's reader has closed it before the first line."""
    read, write = os.pipe()
    os.close(read)
    done = run("--help", stdout=write, stderr=subprocess.PIPE, capture_output=False)
    os.close(write)
    assert done.returncode == 141
    assert done.stderr == b""


@pytest.mark.parametrize(
    "arguments",
    [
        ["recommend", "RUN", "--history", "", "-k", "60"],
        ["recommend", "RUN", "--history", "", "--json"],
        ["evaluate", "RUN"],
        ["evaluate", "RUN", "--json"],
        ["tokenize", "RUN"],
        ["plot", "RUN"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("buffer", [1, -1], ids=["by line", "at the end"])
def test_no_verb_complains_of_a_reader_that_went_away(
    arguments, buffer, hostile_run, monkeypatch, capfd
):
    read, write = os.pipe()
    os.close(read)
    with open(write, "w", buffer, encoding="utf-8") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert main([str(hostile_run) if one == "RUN" else one for one in arguments]) == 141
    assert capfd.readouterr().err == ""


def test_stdout_may_be_closed(hostile_run, monkeypatch, capfd):
    for stdout in (None, io.StringIO()):
        monkeypatch.setattr(sys, "stdout", stdout)
        for verb in ("evaluate", "tokenize"):
            assert main([verb, str(hostile_run)]) == 0
    assert capfd.readouterr().err == ""


def test_a_number_that_json_cannot_say_is_status_1(capsys):
    act = functools.partial(print_json, {"loss": float("nan")})
    assert run_verb("verb", "", lambda parser: None, lambda args: act(), []) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "error: the result holds a number that is not finite\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_an_output_that_is_full_is_one_line():
    with open("/dev/full", "wb") as full:
        done = run("--help", stdout=full, stderr=subprocess.PIPE, capture_output=False)
    assert done.returncode == 2
    assert done.stderr == b"error: output: No space left on device\n"


def test_json_is_all_that_stdout_gets(hostile_run):
    done = run("evaluate", hostile_run, "--json", "decoding.beam_width=40", text=True)
    assert done.returncode == 0, done.stderr
    metrics = json.loads(done.stdout)
    assert metrics["decoding"].startswith("beam 40")


def test_a_locale_without_letters_is_served(hostile_run):
    environment = {"LC_ALL": "C", "LANG": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = run("recommend", hostile_run, "--history", "", env=environment)
    assert done.returncode == 0, done.stderr
    assert b"\\xedtem" in done.stdout
    assert done.stdout.isascii()


@pytest.mark.parametrize("verb", VERBS)
def test_a_parser_is_had_without_running_its_verb(verb):
    assert parser_of(verb).prog == f"store-engine {verb}"
    assert [a.dest for a in parser_of(verb)._actions] == [a.dest for a in parser_of(verb)._actions]


def test_the_folder_of_an_output_is_made(tmp_path):
    out = tmp_path / "new" / "deep" / "recs.csv"
    claim_output(out)
    assert out.parent.is_dir()
    assert not out.exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["recommend", "RUN", "--all-users", "--output", "OUT"],
        ["recommend", "RUN", "--input", "FILE", "--output", "OUT"],
        ["tokenize", "RUN", "--out", "OUT"],
        ["tokenize", "RUN", "--features", "OUT"],
        ["report", "RUN", "--out", "OUT"],
        ["plot", "RUN", "--out", "OUT"],
        ["export", "RUN", "--to", "OUT"],
        ["import", "RUN", "--to", "OUT"],
    ],
    ids=lambda arguments: " ".join(arguments),
)
def test_an_output_without_a_place_is_refused_before_anything_is_loaded(
    arguments, tmp_path, capsys
):
    file = tmp_path / "file"
    file.write_text("")
    places = {"RUN": "no run", "FILE": file, "OUT": file / "out.csv"}
    assert main([str(places.get(one, one)) for one in arguments]) == 2
    assert f"error: {places['OUT']}: its folder cannot be made: {file}: " in capsys.readouterr().err


def test_a_default_output_makes_no_folder_of_a_run_that_is_none(tmp_path, capsys):
    for verb in ("report", "plot"):
        assert main([verb, str(tmp_path / "none")]) == 2
    assert list(tmp_path.iterdir()) == []
