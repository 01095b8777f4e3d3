import pytest

from store_engine.data.catalog import Catalog
from store_engine.data.readers import clean_items, read_items
from store_engine.data.report import DataReport


@pytest.mark.parametrize("strip_html", [False, True])
def test_a_file_is_read_as_new_items_are(strip_html, tmp_path):
    path = tmp_path / "items.csv"
    path.write_text('item_id,title\n1,"<p>Salt &amp; <b>pepper</b></p>"\n2,plain <3\n')
    report = DataReport()
    catalog = read_items(path, "item_id", ("title",), report, strip_html=strip_html)
    plain = "Salt & pepper" if strip_html else "<p>Salt &amp; <b>pepper</b></p>"
    assert catalog.fields["title"] == (plain, "plain <3")
    assert report.num_html == strip_html
    assert ("texts with HTML, made plain: 1" in report.lines()) == strip_html


def test_cleaning_twice_changes_nothing():
    items = Catalog(("a",), {"title": ("  a \x00 &lt;br&gt; \ud83d b\nc ",)})
    once = clean_items(items)
    assert once.fields["title"] == ("a \ufffd b c",)
    assert clean_items(once) == once
