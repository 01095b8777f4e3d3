import pytest

from store_engine.cli.main import main


def test_the_codes_of_a_run_are_drawn(run_dir, capsys):
    pytest.importorskip("matplotlib")
    assert main(["plot", str(run_dir), "--codebook"]) == 0
    assert capsys.readouterr().out.strip() == str(run_dir / "codebook.png")
    assert (run_dir / "codebook.png").read_bytes().startswith(b"\x89PNG")
    assert main(["check", str(run_dir)]) == 0  # the picture is no foreign file


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["nowhere"], "nowhere"), ([".", "--out", "codes"], "codes: the suffix says the format")],
)
def test_what_cannot_be_drawn_is_one_line(arguments, message, run_dir, capsys, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(run_dir)
    assert main(["plot", *arguments, "--codebook"]) == 2
    assert capsys.readouterr().err.startswith(f"error: {message}")
