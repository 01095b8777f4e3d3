"""requirements.lock: each package in one version with its hashes; all that pyproject.toml needs."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
ENTRIES = (ROOT / "requirements.lock").read_text().replace("\\\n", " ").splitlines()


def pins() -> dict[str, Requirement]:
    found = [Requirement(entry.split("--hash")[0].strip()) for entry in ENTRIES]
    return {canonicalize_name(one.name): one for one in found}


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.split("=")[0])
def test_every_package_has_one_version_and_hashes(entry):
    assert re.fullmatch(
        r"[\w.-]+==[\w.!+]+\s+(; [^-]+)?(\s*--hash=sha256:[0-9a-f]{64})+", entry.strip()
    ), entry


def test_it_holds_what_the_package_needs_in_a_version_that_fits():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["dev"]]
    locked = pins()
    for text in wanted:  # which grows
        one = Requirement(text)
        if one.name == "store-engine":
            wanted += [text for extra in sorted(one.extras) for text in extras[extra]]
            continue
        if one.name == "torch":  # the Makefile pins it, without a hash
            continue
        version = next(iter(locked[canonicalize_name(one.name)].specifier)).version
        assert one.specifier.contains(version), f"{text}, locked {version}"
