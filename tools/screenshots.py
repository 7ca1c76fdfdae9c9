"""Make the pictures that README shows, of the page and of a contact sheet. Needs Playwright and a Chromium.

    xsearch query "a colourful fish" --sheet sheet.html -k 3
    python tools/screenshots.py http://127.0.0.1:8000/ sheet.html

The server is one of the demo's library.
"""

import shutil
import sys
from pathlib import Path

from playwright.sync_api import Page, ViewportSize, sync_playwright

DOCS = Path(__file__).resolve().parents[1] / "docs"
SIZE = ViewportSize(width=1280, height=720)
SHEET_SIZE = ViewportSize(width=1180, height=330)


def main() -> None:
    address, sheet = sys.argv[1:]
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport=SIZE, reduced_motion="reduce")
        page.goto(f"{address}?q=snowy+mountains")
        _shoot(page, "images/page")
        page.goto(f"{address}?q=a+rabbit+in+a+meadow&kind=frame")
        page.locator("#grid a").first.click()
        page.locator(".marks button").first.wait_for()
        _shoot(page, "images/moment")
        page.set_viewport_size(SHEET_SIZE)
        page.goto(Path(sheet).resolve().as_uri())
        _shoot(page, "contact-sheet")
        browser.close()


def _shoot(page: Page, name: str) -> None:
    page.wait_for_load_state("networkidle")
    page.wait_for_timeout(500)
    page.screenshot(path=DOCS / f"{name}.jpg", type="jpeg", quality=80)


if __name__ == "__main__":
    main()
