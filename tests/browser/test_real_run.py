"""The page of a real supervisor whose run trains: every action that an operator has over it."""

from pathlib import Path

import pytest
from playwright.async_api import Page, expect

from esper_async.testing.harness import Esper
from tests.browser.conftest import browsing
from tests.e2e.conftest import records, run_of

pytestmark = pytest.mark.timeout(300)
_LONG = 10_000


async def confirmed(page: Page, button: str, deed: str) -> None:
    """Press a button of the run's head, and what its question asks for."""
    await page.locator("#run-head").get_by_role("button", name=button).click()
    await page.locator("#ask").get_by_role("button", name=deed).click()


@pytest.mark.esper(settings={"tolaria.nice": 0})
async def test_a_seed_is_culled_and_the_run_paused_resumed_rolled_back_and_stopped(
    esper: Esper,
) -> None:
    wanted = run_of("table_mlp", epochs=_LONG)
    wanted["growth"] |= {"policy": "random", "dwell_steps": 2_000}
    run_id = await esper.submit(wanted)
    folder = esper.state_dir / "runs" / run_id

    def told(kind: str) -> list[dict[str, object]]:
        return records(folder, kind)

    async with browsing(esper.url) as page:
        await expect(page.locator("#verdict h1")).to_have_text("All is well", timeout=60_000)
        await page.locator("#seeds summary", has_text="training").first.click(timeout=90_000)
        await page.get_by_role("button", name="Cull this seed").click()
        await page.locator("#ask").get_by_role("button", name="Cull the seed").click()
        await expect(page.locator("#toast")).to_contain_text("is culled at the next boundary")
        await esper.until(lambda _: by_operator(folder), 60)

        await confirmed(page, "Pause", "Pause")
        await expect(page.locator("#run-head .pill").first).to_contain_text("paused")
        await confirmed(page, "Resume", "Resume")
        await expect(page.locator("#run-head .pill").first).to_contain_text("running")
        await esper.until(lambda _: told("checkpoint"), 60)
        await confirmed(page, "Roll back", "Roll back")
        await esper.until(lambda _: told("rollback"), 60)
        await confirmed(page, "Stop", "Stop the run")
        await expect(page.locator("#run-head .pill").first).to_contain_text("stopped")
    assert (await esper.ended(run_id))["state"] == "stopped"


def by_operator(folder: Path) -> list[dict[str, object]]:
    return [each for each in records(folder, "decision") if each["policy"] == "operator"]
