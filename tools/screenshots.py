"""Make the pictures of the page that README shows: `python tools/screenshots.py http://127.0.0.1:8000/`.

The server is one of the demo's library. Needs Playwright and a Chromium.
"""

import shutil
import sys
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
SIZE = {"width": 1280, "height": 720}


def main() -> None:
    (address,) = sys.argv[1:]
    IMAGES.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport=SIZE, reduced_motion="reduce")
        page.goto(f"{address}?q=snowy+mountains")
        _shoot(page, "page")
        page.goto(f"{address}?q=a+rabbit+in+a+meadow&kind=frame")
        page.locator("#grid a").first.click()
        page.locator(".marks button").first.wait_for()
        _shoot(page, "moment")
        browser.close()


def _shoot(page: Page, name: str) -> None:
    page.wait_for_load_state("networkidle")
    page.wait_for_timeout(500)
    page.screenshot(path=IMAGES / f"{name}.jpg", type="jpeg", quality=80)


if __name__ == "__main__":
    main()
