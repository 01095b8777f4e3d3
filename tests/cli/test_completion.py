import shutil
import subprocess

import pytest

from store_engine.cli.main import VERBS, main

SHELLS = ("bash", "zsh", "fish")


def script(shell, capsys):
    assert main(["completion", shell]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("shell", SHELLS)
def test_verbs_and_options_are_in_the_script(shell, capsys):
    text = script(shell, capsys)
    assert all(verb in text for verb in VERBS)
    assert "beam-width" in text
    assert "interactions" in text


@pytest.mark.parametrize("shell", SHELLS)
def test_the_shell_can_read_it(shell, capsys, tmp_path):
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} here")
    path = tmp_path / "script"
    path.write_text(script(shell, capsys))
    assert subprocess.run([shell, "-n", path], capture_output=True).returncode == 0


@pytest.mark.parametrize(
    ("words", "want"),
    [
        (["store-engine", "re"], {"recommend"}),
        (["store-engine", "evaluate", "--va"], {"--validation"}),
        (["store-engine", "recommend", "--backend", "c"], {"cpp"}),
        (["store-engine", "nothing", "--va"], set()),
    ],
)
def test_bash_completes(words, want, capsys, tmp_path):
    text = script("bash", capsys)
    quoted = " ".join(map(repr, words))
    text += f"""
COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}
eval "$(complete -p store-engine | sed 's/.*-F \\([^ ]*\\) .*/\\1/')" store-engine {words[-1]!r}
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    done = subprocess.run(["bash", "-c", text], capture_output=True, text=True, cwd=tmp_path)
    assert want <= set(done.stdout.split())
    assert not want or len(done.stdout.split()) < 4


def test_another_shell_is_refused(capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["completion", "cmd"])
    assert exit_.value.code == 2
    assert "bash" in capsys.readouterr().err
