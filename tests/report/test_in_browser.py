"""The page in headless Chromium, where Playwright and a Chromium are installed."""

import shutil

import pytest

from store_engine.report.page import write_report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
playwright = pytest.importorskip("playwright.sync_api", reason="needs store-engine[docs]")


@pytest.fixture
def page_file(measured_run, tmp_path):
    out = tmp_path / "page.html"
    write_report(measured_run, out)
    return out


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390, 320])
def test_it_fits_asks_for_nothing_and_says_no_error(width, scheme, page_file):
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(
            viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion="reduce"
        )
        said, asked = [], []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(page_file.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.title().endswith("store_engine report")
        page.fill("#find", "</script>")
        assert "8 item(s)" in page.inner_text("#told")
        page.locator("#map").scroll_into_view_if_needed()
        box = page.locator("#map").bounding_box()
        point = page.evaluate("JSON.parse(document.getElementById('points').textContent)")
        scale = box["width"] / 800
        page.mouse.move(box["x"] + point["x"][0] * scale, box["y"] + point["y"][0] * scale)
        assert point["title"][0] in page.inner_text("#tip")
        assert page.title().endswith("store_engine report")  # no title became a script
        assert said == [] and [url for url in asked if not url.startswith(("file:", "data:"))] == []
        browser.close()
