import pytest

from benchmarks.debian_packages import dependencies, k_core, parse

PACKAGES = """\
Package: editor
Version: 1
Depends: libc6 (>= 2.36), libx [amd64] | libother, editor-data, gone
Recommends: fonts
Description: writes texts
 and more
 .
 End.

Package: editor-data
Source: editor (1.0)
Description: its data

Package: libc6
Description: the C library

Package: libx
Description: draws

Package: fonts
Depends: libc6
Description: letters

Package: nameless
"""


def test_stanzas_are_read_whole_and_those_without_text_left_out():
    stanzas = {stanza["Package"]: stanza for stanza in parse(PACKAGES)}
    assert list(stanzas) == ["editor", "editor-data", "libc6", "libx", "fonts"]
    assert stanzas["editor"]["Description"] == "writes texts and more . End."


def test_a_source_depends_on_what_its_binaries_do_but_not_on_itself():
    stanzas = {stanza["Package"]: stanza for stanza in parse(PACKAGES)}
    assert dependencies(stanzas) == {"editor": ["fonts", "libc6", "libx"], "fonts": ["libc6"]}


@pytest.mark.parametrize(
    ("users", "kept"),
    [
        ({"a": ["x", "y"], "b": ["x", "y"], "c": ["y"]}, {"a": ["x", "y"], "b": ["x", "y"]}),
        ({"a": ["x", "y"], "b": ["y", "z"], "c": ["z", "w"]}, {}),  # falls apart from its ends
    ],
)
def test_the_core_is_what_is_left_in_the_end(users, kept):
    assert k_core(users, 2) == kept
