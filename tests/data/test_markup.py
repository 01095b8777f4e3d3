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
    ],
)
def test_markup_goes_and_text_stays(text, plain):
    assert without_markup(text) == plain
