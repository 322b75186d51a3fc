"""A headless Chromium with a page open on a served story, watched for errors of its own."""

import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Page, async_playwright, expect

from tests.browser.serving import Served, serving

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
expect.set_options(timeout=20_000)  # a cold start of Chromium on a busy machine
Open = Callable[..., AbstractAsyncContextManager[tuple[Page, Served]]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.browser)
            if CHROMIUM is None:
                item.add_marker(pytest.mark.skip(reason="needs Chromium: apt-get install chromium"))


@asynccontextmanager
async def browsing(
    url: str, *, width: int = 1280, scheme: str = "light", quiet: bool = True
) -> AsyncIterator[Page]:
    """Open a page in a browser of its own; its errors and warnings fail the test if `quiet`."""
    errors: list[str] = []
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        context = await browser.new_context(
            viewport={"width": width, "height": 860},
            color_scheme=scheme,  # type: ignore[arg-type]
        )
        page = await context.new_page()
        page.set_default_timeout(30_000)

        def heard(message: Any) -> None:
            if message.type in ("error", "warning"):
                errors.append(message.text)

        page.on("console", heard)
        page.on("pageerror", lambda error: errors.append(str(error)))
        await page.goto(url)
        yield page
        await browser.close()
    if quiet:
        assert errors == []


@pytest.fixture
def opened(tmp_path: Path) -> Open:
    """Serve the story's first `at` records and open the page; its errors fail the test."""

    @asynccontextmanager
    async def open_page(at: int = 10_000, **options: Any) -> AsyncIterator[tuple[Page, Served]]:
        async with serving(tmp_path, at=at) as served, browsing(served.url, **options) as page:
            await page.get_by_role("heading", level=2, name="digits").wait_for()
            yield page, served

    return open_page
