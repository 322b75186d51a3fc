"""What an operator does on the page, and that everybody can: actions, links, keyboard, readers."""

from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Page, expect

from esper_async.nissa.event_store import Event
from esper_async.nissa.objectives import Objective
from esper_async.nissa.slo import BURN_WINDOWS_S, Budget
from tests.browser.conftest import Open
from tests.nissa.test_notify import alert

GRAVE = ("serious", "critical")


async def grave_violations(page: Page) -> list[str]:
    found = await Axe().run(page)
    return [
        f"{each['id']}: {each['nodes'][0]['html'][:160]}"
        for each in found.response["violations"]
        if each["impact"] in GRAVE
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
async def test_axe_finds_nothing_serious(opened: Open, width: int, scheme: str) -> None:
    async with opened(width=width, scheme=scheme) as (page, served):
        served.system["services"]["oona"]["breakers"] = {"oona.publish": "open"}
        await expect(page.locator("#alert-list .alert")).to_have_count(1)
        await page.locator("#seeds summary").first.click()
        assert await grave_violations(page) == []


async def test_a_run_is_frozen_with_a_reason(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(at=40) as (page, served):
        asked: list[tuple[str, str]] = []

        async def emergency(run_id: str, level: str, reason: str) -> Any:
            asked.append((level, reason))
            return served.tolaria.get(run_id)

        monkeypatch.setattr(served.tolaria, "emergency", emergency)
        await page.locator("#run-head").get_by_role("button", name="Freeze").click()
        ask = page.locator("#ask")
        await ask.get_by_role("button", name="Freeze it").click()
        assert asked == []  # nobody freezes a run without saying why
        await ask.get_by_label("Why").fill("the room is on fire")
        await ask.get_by_role("button", name="Freeze it").click()
        await expect(page.locator("#toast")).to_contain_text("The run is frozen")
        assert asked == [("CRITICAL", "the room is on fire")]


async def test_an_alert_is_silenced_for_an_hour(opened: Open) -> None:
    async with opened() as (page, served):
        served.system["services"]["oona"]["breakers"] = {"oona.publish": "open"}
        await page.get_by_role("button", name="Silence").click()
        await page.locator("#ask").get_by_role("button", name="Silence").click()
        await expect(page.locator("#alert-list")).to_contain_text("silent until")
        [fired] = served.nissa.context.alerts.active()
        assert fired.silent(served.nissa.context.clock.time())


async def test_what_the_kept_seeds_brought_is_drawn_with_its_figures(opened: Open) -> None:
    async with opened() as (page, _):
        drawing = page.locator("#waterfall svg")
        told = await drawing.get_attribute("aria-label")
        assert told == "Loss saved by each kept seed: s2  squeeze excitation +0.057"
        await expect(page.locator("#waterfall")).to_contain_text("1 of 1 measured")


async def test_a_policy_is_activated(opened: Open) -> None:
    class Registry:
        def __init__(self) -> None:
            self.active = "p1"

        def policies(self) -> list[dict[str, Any]]:
            states = {True: "active", False: "superseded"}
            return [
                {
                    "id": each,
                    "state": states[each == self.active],
                    "created_at": 1.7e9,
                    "controller": {"stage": "staged", "states": 7, "states_wanted": 20},
                }
                for each in ("p2", "p1")
            ]

        def history(self) -> list[dict[str, Any]]:
            told = {"at": 1.7e9, "id": "p2", "what": "rejected", "reason": "it was too slow"}
            return [{**told, "features": "placement-1", "by": "tamiyo"}]

        def activate(self, policy_id: str) -> None:
            self.active = policy_id

    async with opened() as (page, served):
        object.__setattr__(served.nissa.context, "policies", Registry())
        await page.reload()
        await page.get_by_role("button", name="Activate").click()
        await page.locator("#ask").get_by_role("button", name="Activate").click()
        await expect(page.locator("#forge li", has_text="p2").first).to_contain_text("active")
        await expect(page.locator("#forge")).to_contain_text("asked about 7 of 20 live states")
        await expect(page.locator("#forge")).to_contain_text("it was too slow")


async def test_a_dead_message_is_sent_again(opened: Open) -> None:
    async with opened() as (page, served):
        outbox = served.nissa.context.outbox
        outbox.put("slack", [alert().to_json()], 1.7e9)
        outbox.failed(1, "chat.test answered 403: no", due_at=None, now=1.7e9)
        await page.reload()
        notices = page.locator("#notices")
        await expect(notices).to_contain_text("chat.test answered 403: no")
        await notices.get_by_role("button", name="Send again").click()
        await page.locator("#ask").get_by_role("button", name="Send again").click()
        await expect(page.locator("#toast")).to_contain_text("It waits for its channel")


async def test_objectives_show_what_is_measured_and_name_what_is_not(opened: Open) -> None:
    async with opened() as (page, served):
        assert len(served.nissa.context.budgets()) > 0
        await page.reload()
        rows = page.locator("#budgets-list tbody tr")
        await expect(rows.first).to_contain_text("ready")
        await expect(rows).to_have_count(6)
        await page.locator("#budgets-list").get_by_role("button", name="Show all").click()
        await expect(rows).to_have_count(
            sum(
                each.to_json()["budget_left"] is not None for each in served.nissa.context.budgets()
            )
        )
        await expect(page.locator("#budgets-list")).to_contain_text("Not measured")
        await expect(page.locator("#budgets-list")).to_contain_text("tamiyo/latency")


async def test_an_overdrawn_budget_is_a_reason_in_the_verdict_and_a_few_events_are_none(
    opened: Open,
) -> None:
    calm = dict.fromkeys(BURN_WINDOWS_S, None)
    latency, errors = (Objective("oona", kind, 0.99, "text") for kind in ("latency", "errors"))
    budgets = [
        Budget(latency, 9_700, 10_000, 10_000, calm, 0.1),
        Budget(errors, 1, 9, 9, calm, 0.1),
    ]
    async with opened() as (page, served):
        object.__setattr__(served.nissa.context, "budgets", lambda: budgets)
        await page.reload()
        verdict = page.locator("#verdict")
        await expect(verdict).to_contain_text("Worth a look")
        await expect(verdict).to_contain_text("of oona's latency is overdrawn: 97.00 % was good")
        await expect(verdict.locator("li")).to_have_count(1)
        few = page.locator("#budgets-list tbody tr", has_text="errors")
        await expect(few.locator(".pill")).to_have_text("too little yet")


async def test_the_past_of_a_metric_is_drawn_and_can_be_linked(opened: Open) -> None:
    async with opened() as (page, served):
        history = served.nissa.watch.history
        history.take(reading_of(served), served.nissa.context.clock.time() - 120)
        history.take(reading_of(served), served.nissa.context.clock.time() - 60)
        history.take(reading_of(served), served.nissa.context.clock.time())
        await page.reload()
        await page.get_by_role("combobox", name="Metric").select_option(
            "esper_nissa_stream_readers"
        )
        await expect(page.locator("#past canvas")).to_have_count(1)
        await expect(page.locator("#past")).to_contain_text("from the roll-ups on disk")
        await page.goto(page.url)
        await expect(page.locator("#past canvas")).to_have_count(1)


def reading_of(served: Any) -> Any:
    from esper_async.nissa.reading import Reading

    return Reading.of(served.nissa.context.registry)


async def test_a_search_is_a_link_and_what_comes_in_does_not_disturb_it(opened: Open) -> None:
    async with opened(at=40) as (page, served):
        note = served.nissa.teller.note
        note(Event("e1", 1.0, "warning", "test", "test.event", "a seed was culled"))
        await page.get_by_role("searchbox").fill("cull")
        await expect(page.locator("#event-list li")).to_have_count(1)
        assert parse_qs(urlsplit(page.url).query)["q"] == ["cull"]
        note(Event("e2", 2.0, "warning", "test", "test.event", "the disk is slow"))
        note(Event("e3", 3.0, "warning", "test", "test.event", "another was culled"))
        await expect(page.locator("#event-list li")).to_have_count(2)
        await page.goto(page.url)
        await expect(page.locator("#event-list li")).to_have_count(2)
        await expect(page.get_by_role("searchbox")).to_have_value("cull")


async def test_a_seed_that_was_looked_at_is_a_link(opened: Open) -> None:
    async with opened() as (page, _):
        await page.locator("#lanes .row").nth(1).click()
        chosen = page.locator("#seeds details[open]")
        words = await chosen.locator("summary").inner_text()
        await page.goto(page.url)
        await expect(chosen).to_have_count(1)
        assert await chosen.locator("summary").inner_text() == words
        await page.locator("#seeds summary").first.click()
        first = await page.locator("#seeds .id").first.inner_text()
        assert parse_qs(urlsplit(page.url).query)["seed"] == [first]


async def test_the_command_that_makes_the_run_again_works(opened: Open) -> None:
    import tomllib

    from esper_async.tolaria.run_file import parse_run

    async with opened() as (page, served):
        await page.get_by_text("Reproduce or send it").click()
        command = await page.locator("#run-head code").first.text_content()
        assert command is not None
        assert f"/api/runs/{served.run_id}/file" in command
        response = await page.request.get(f"{served.url}api/runs/{served.run_id}/file")
        again = parse_run(tomllib.loads(await response.text()))
        config = served.tolaria.get(served.run_id).config
        chosen = {"threads": 1, "device": "cpu", "deterministic": True}  # else the machine's choice
        assert config["run"]["threads"] == "auto"
        assert again.model_dump(mode="json") == {**config, "run": {**config["run"], **chosen}}


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_a_report_tells_the_same_story_from_a_file_alone(
    opened: Open, tmp_path: Path, scheme: str
) -> None:
    async with opened(scheme=scheme) as (page, served):
        response = await page.request.get(f"{served.url}api/runs/{served.run_id}/report")
        path = tmp_path / "report.html"
        path.write_text(await response.text())
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        await page.goto(path.as_uri())
        await expect(page.locator("#run-charts canvas")).to_have_count(4)
        await expect(page.locator("#lanes .row")).to_have_count(7)
        await expect(page.locator("#waterfall svg")).to_have_count(1)
        await expect(page.locator("#decision-list li")).to_have_count(2)
        await expect(page.locator("#report-list")).to_contain_text("failed G1")
        await expect(page.locator("#run-file pre")).to_contain_text("[growth]")
        await expect(page.get_by_role("button", name="Cull this seed")).to_have_count(0)
        assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
        assert await grave_violations(page) == []
