"""One headless Chromium for all tests of pages; they are skipped where it or playwright is missing."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator

import pytest

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
