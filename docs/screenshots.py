"""Take the pictures of the page from a supervisor whose run has ended, with a real Chromium.

bin/esper-supervisor up                      # until the default run has ended
python docs/screenshots.py http://127.0.0.1:8787
"""

import argparse
import os
import shutil
from pathlib import Path

from playwright.sync_api import sync_playwright

FOLDER = Path(__file__).parent / "images"
WIDTH, FIRST_HEIGHT, EVENTS, MARGIN = 1280, 1840, 8, 24


def main() -> None:
    """Write `page.png`, the beginning of the page, and `page-whole.png`, to its newest events."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("url", help="where the page is")
    url = parser.parse_args().url
    program = os.environ.get("ESPER_CHROMIUM") or shutil.which("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": FIRST_HEIGHT})
        page.goto(url)
        page.locator("#run-result tbody tr").first.wait_for()
        page.locator("#run-charts canvas").nth(3).wait_for()
        page.locator("#event-list li").first.wait_for()
        page.screenshot(path=FOLDER / "page.png")
        last = page.locator("#event-list li").nth(EVENTS - 1).bounding_box()
        assert last is not None
        whole = {"x": 0, "y": 0, "width": WIDTH, "height": last["y"] + last["height"] + MARGIN}
        page.screenshot(path=FOLDER / "page-whole.png", full_page=True, clip=whole)
        browser.close()


if __name__ == "__main__":
    main()
