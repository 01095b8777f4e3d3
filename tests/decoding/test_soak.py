import subprocess
import sys
from pathlib import Path


def test_answers_stay_right_while_the_catalogue_changes():
    script = str(Path(__file__).with_name("soak.py"))
    done = subprocess.run(
        [sys.executable, script, "--minutes", "0.05", "--threads", "4"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
