import time

import pytest

from store_engine.data.markup import without_markup


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("plain", "plain"),
        ("Tom &amp; Jerry", "Tom & Jerry"),
        ("&amp;quot;x&amp;quot;", '"x"'),
        ("a < b, I <3 you, x<y>z", "a < b, I <3 you, x<y>z"),
        ("<p>One</p><p>two</p>", " One  two "),
        ("one<br/>two<BR>three", "one two three"),
        ("H<sub>2</sub>O <b>bold</b>", "H2O bold"),
        ('<a href="x>y">link</a>', 'y">link'),
        ("a<script>alert(1 < 2)</script>b<!-- c <p> -->d", "a b d"),
        ("&lt;b&gt;x&lt;/b&gt; &#39;&eacute;", "x 'é"),
        ("5&nbsp;kg", "5\xa0kg"),
        ("AT&T <", "AT&T <"),
        ("AT&T; R&D, this&not that, ?a=1&copy=2", "AT&T; R&D, this&not that, ?a=1&copy=2"),
        ("A & B <3 C, x < y > z, <y and z>", "A & B <3 C, x < y > z, <y and z>"),
        ("<p>Salt &amp;amp; <b>pep</b>per</p><br/>Set", " Salt & pepper  Set"),
        ("<IMG SRC='x'><Div\nclass=y>z</DIV >", "  z "),
        ("<style>" + "a{b:c} " * 5000 + "</STYLE >x", " x"),
        ("a<!-- b <script> c --> d</script>e", "a  d e"),
        ("<script>never ends <!-- but this --> <b>x</b>", " never ends   x"),
    ],
)
def test_markup_goes_and_text_stays(text, plain):
    assert without_markup(text) == plain


@pytest.mark.parametrize("opening", ["<!--", "<script>", "<style>", "<", "&amp"])
def test_what_never_ends_takes_no_longer(opening):
    """Quadratic time would be minutes."""
    text = opening * 200_000 + ">"
    begin = time.process_time()
    assert len(without_markup(text)) <= len(text)
    assert time.process_time() - begin < 5
