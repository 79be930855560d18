"""One headless Chromium for all tests of pages; they are skipped where it or playwright is missing."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator

import pytest

from usg_psg.visualization import PageWriter

PATIENCE = 180_000  # milliseconds until something that must happen counts as not happening, on a busy machine


@pytest.fixture(scope="package")
def new_page() -> Iterator[Callable]:
    """Opens a page with playwright's options for a context."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("needs chromium")
    with playwright.sync_playwright() as runner:
        browser = runner.chromium.launch(executable_path=chromium, args=["--no-sandbox"], timeout=PATIENCE)

        def open_page(**options):
            page = browser.new_page(**options)
            page.set_default_timeout(PATIENCE)
            return page

        yield open_page
        browser.close()


@pytest.fixture
def show(new_page, tmp_path):
    """Writes items as a page and opens it; at the end, no error may have been logged and nothing loaded."""
    pages, messages, requests = [], [], []

    def open_page(items, width=1280, height=900, fragment="", **options):
        with PageWriter(tmp_path / "page.html", options.pop("title", "Title")) as writer:
            for item in items:
                writer.add(item)
            for timeline in options.pop("timelines", ()):
                writer.add_timeline(timeline)
        page = new_page(viewport={"width": width, "height": height}, **options)
        page.on("console", lambda message: messages.append(message.text))
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(f"file://{tmp_path}/page.html{fragment}")
        page.wait_for_selector("body[data-ready=true]")
        pages.append(page)
        return page

    yield open_page
    for page in pages:
        page.close()
    # The advice about reading a canvas often is for these tests, not for the page.
    assert [text for text in messages if not text.startswith("Canvas2D: Multiple readback")] == []
    assert {url.partition("#")[0] for url in requests if not url.startswith("data:")} == {
        f"file://{tmp_path}/page.html"
    }
