"""The operator's page, in a real browser, against a served story."""

import re
from typing import Any

import pytest
from playwright.async_api import expect

from esper_async.nissa.event_store import Event
from esper_async.nissa.reading import Reading
from tests.browser.conftest import Open


async def test_an_ended_run_is_told_from_verdict_to_field_reports(opened: Open) -> None:
    async with opened() as (page, served):
        served.tolaria.get(served.run_id).state = "completed"
        await expect(page.locator("#verdict h1")).to_have_text("All is well")
        await expect(page.locator("#run-head")).to_contain_text("completed")
        await expect(page.locator("#run-result tbody tr")).to_have_count(3)
        await expect(page.locator("#run-result")).to_contain_text("One run is not evidence")
        await expect(page.locator("#sites")).to_contain_text("squeeze excitation")
        await expect(page.locator("#lanes .row")).to_have_count(7)
        await expect(page.locator("#run-charts canvas")).to_have_count(4)
        await expect(page.locator("#decision-list li")).to_have_count(2)
        await expect(page.locator("#report-list")).to_contain_text("failed G1")
        await expect(page.locator("#services .service")).to_have_count(10)


async def test_a_run_without_baselines_shows_its_test_result_and_what_it_ended_with(
    opened: Open,
) -> None:
    """Its last boundary still counted a seed that the end removed."""
    async with opened(at=-1) as (page, served):
        served.tolaria.get(served.run_id).state = "completed"
        await expect(page.locator("#run-head")).to_contain_text("2,570")
        await served.tell([{**served.records[-1], "comparison": [], "parameters": 2498}])
        await expect(page.locator("#run-head")).to_contain_text("2,498")
        await expect(page.locator("#run-head")).to_contain_text("+584")
        await expect(page.locator("#run-result")).to_contain_text("accuracy 96.1 % · loss 0.139")


async def test_what_was_not_measured_is_said_so_and_gates_show_their_numbers(
    opened: Open,
) -> None:
    async with opened() as (page, _):
        fallen = page.locator("#seeds summary", has_text="gelu activation")
        await expect(fallen).to_contain_text("nothing was measured")
        await fallen.click()
        card = page.locator("#seeds details[open]")
        await expect(card).to_contain_text("not measured")
        await expect(card).to_contain_text("2 tensors received no gradient")
        await page.locator("#lanes .row").first.click()
        kept = page.locator("#seeds details[open]", has_text="squeeze excitation")
        await expect(kept).to_contain_text("margin 0.005")


async def test_news_arrives_without_a_reload_within_a_second(opened: Open) -> None:
    async with opened(at=40) as (page, served):
        await expect(page.locator("#run-head")).to_contain_text("Epoch 9 of 32")
        await served.tell(served.records[40:55])
        last = served.records[54]["boundary"]
        await expect(page.locator("#run-head")).to_contain_text(
            f"Epoch {last} of 32", timeout=1_000
        )
        await served.tell(served.records[55:])
        await expect(page.locator("#run-result tbody tr")).to_have_count(3, timeout=1_500)


async def test_a_run_is_silent_only_for_as_long_as_this_supervisor_has_listened(
    opened: Open,
) -> None:
    """The story is old: its run goes on after the supervisor was off for a long time."""
    async with opened(at=40) as (page, served):
        verdict = page.locator("#verdict")
        await expect(verdict).to_contain_text("All is well")
        context = served.nissa.context
        object.__setattr__(context, "started_at", context.clock.monotonic() - 600)
        await expect(verdict).to_contain_text("This run has said nothing for 10 min")


async def test_a_task_without_a_metric_has_six_different_tiles(opened: Open) -> None:
    async with opened(at=0) as (page, served):
        for record in served.records[:10]:
            told = dict(record)
            if record["kind"] == "run_started":
                told["primary_metric"] = "validation_loss"
            if record["kind"] == "boundary":
                losses = ("training_loss", "validation_loss")
                told["metrics"] = {name: record["metrics"][name] for name in losses}
            await served.tell([told])
        labels = page.locator("#run-head .tile .label")
        await expect(labels).to_have_count(6)
        assert len(set(await labels.all_text_contents())) == 6


async def test_accuracy_in_training_is_beside_the_validations_or_is_said_to_be_unmeasured(
    opened: Open,
) -> None:
    async with opened(at=10) as (page, served):
        accuracies = page.locator("#run-charts .chart", has_text="Accuracy")
        legend = accuracies.locator(".legend")
        await expect(legend).to_contain_text(re.compile(r"last step\s*not measured"))
        told = [dict(record) for record in served.records[10:30]]
        for record in told:
            if record["kind"] == "boundary":
                record["metrics"] = {**record["metrics"], "training_accuracy": 0.987}
        await served.tell(told)
        await expect(legend).to_contain_text(re.compile(r"last step\s*98.7 %"))


@pytest.mark.parametrize("width", [1400, 1100, 800, 390])
async def test_the_tiles_fill_their_last_row(opened: Open, width: int) -> None:
    async with opened(width=width) as (page, _):
        await expect(page.locator("#run-head .tile:last-child")).to_be_visible()
        ends: list[float] = await page.evaluate(
            """[".tiles", ".tile:last-child"].map((name) =>
                 document.querySelector(`#run-head ${name}`).getBoundingClientRect().right)"""
        )
        assert ends[0] - ends[1] < 3


async def test_a_run_that_is_compared_says_with_what(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = {"step": 80, "phase": "comparing: the host alone", "done": 12, "total": 32}
    async with opened(at=-1) as (page, served):
        monkeypatch.setattr(served.tolaria, "progress", lambda _: at)
        await expect(page.locator("#run-head")).to_contain_text(
            "Epoch 32 of 32 · comparing: the host alone 12 of 32"
        )
        await expect(page.locator("#run-head")).not_to_contain_text("last news")


async def test_a_lost_connection_is_shown_as_stale_and_heals_by_itself(opened: Open) -> None:
    async with opened(at=40, quiet=False) as (page, served):
        served.nissa.context.stream.close()
        await expect(page.locator("#verdict h1")).to_contain_text("Unknown")
        await expect(page.locator("#connection")).to_contain_text("stale")
        await served.tell(served.records[40:])
        served.nissa.context.stream.open()
        await expect(page.locator("#connection")).to_have_text("●live", timeout=12_000)
        await expect(page.locator("#run-head")).to_contain_text("Epoch 32 of 32")


async def test_a_page_under_a_foreign_name_says_why_it_is_refused(opened: Open) -> None:
    async with opened(at=40, quiet=False) as (page, served):
        await page.goto(served.url.replace("127.0.0.1", "esper.localhost"))
        verdict = page.locator("#verdict")
        await expect(verdict.locator("h1")).to_have_text("This page is not let in")
        await expect(verdict).to_contain_text("The Host header names 'esper.localhost'")
        await expect(page.locator("#connection")).to_contain_text("refused")
        await expect(page.get_by_text("No run yet")).to_be_hidden()


async def test_troubles_turn_the_verdict_with_their_reasons(opened: Open) -> None:
    async with opened() as (page, served):
        served.system["services"]["simic"] |= {"state": "backing_off", "error": "disk full"}
        served.system["services"]["oona"]["breakers"] = {"oona.publish": "open"}
        verdict = page.locator("#verdict")
        await expect(verdict).to_contain_text("Something is wrong")
        await expect(verdict).to_contain_text("simic is backing off: disk full")
        await expect(verdict).to_contain_text("oona.publish of oona is open")
        await expect(page).to_have_title("✕ digits 32/32 · Esper")
        await page.get_by_role("button", name="Acknowledge").click()
        await page.locator("#ask").get_by_role("button", name="Acknowledge").click()
        await expect(page.locator("#alert-list")).to_contain_text("seen by page@127.0.0.1")


async def test_a_run_is_paused_resumed_and_stopped_after_a_confirmation(opened: Open) -> None:
    async with opened(at=40) as (page, served):
        run = served.tolaria.get(served.run_id)
        await page.get_by_role("button", name="Pause").click()
        await page.keyboard.press("Escape")
        assert run.state == "running"
        for deed, state in (("Pause", "paused"), ("Resume", "queued")):
            await page.locator("#run-head").get_by_role("button", name=deed).click()
            await page.locator("#ask").get_by_role("button", name=deed).click()
            await expect(page.locator("#run-head .pill").first).to_contain_text(state)
            assert run.state == state
        await page.locator("#run-head").get_by_role("button", name="Stop").click()
        await page.locator("#ask").get_by_role("button", name="Stop the run").click()
        await expect(page.locator("#run-head .pill").first).to_contain_text("stopped")
        await expect(page.locator("#run-head .actions button")).to_have_count(0)


async def test_a_refused_cull_says_why(opened: Open) -> None:
    async with opened(at=40, quiet=False) as (page, _):
        await page.locator("#seeds summary").first.click()
        await page.get_by_role("button", name="Cull this seed").click()
        await page.locator("#ask").get_by_role("button", name="Cull the seed").click()
        await expect(page.locator("#toast")).to_contain_text("it has no training process")


async def test_a_command_that_the_run_refuses_is_told_with_its_reason(opened: Open) -> None:
    async with opened(at=40) as (page, served):
        reason = "no rollback to boundary 2: no checkpoint is that old"
        last = served.records[39]
        await expect(page.locator("#run-head")).to_contain_text("Epoch 9 of 32")
        refused = {"kind": "command_refused", "seq": 41, "reason": reason, "request": 1}
        await served.tell([{**last, **refused}])
        await expect(page.locator("#toast")).to_contain_text(reason)
        await expect(page.locator("#decision-list li").first).to_contain_text(reason)


async def test_what_was_refused_while_the_page_was_cut_off_is_told_when_it_is_back(
    opened: Open,
) -> None:
    async with opened(at=40, quiet=False) as (page, served):
        await expect(page.locator("#run-head")).to_contain_text("Epoch 9 of 32")
        served.nissa.context.stream.close()
        await expect(page.locator("#connection")).to_contain_text("stale")
        reason = "no rollback to boundary 2: no checkpoint is that old"
        refused = {"kind": "command_refused", "seq": 41, "reason": reason, "request": 1}
        await served.tell([{**served.records[39], **refused}])
        served.nissa.context.stream.open()
        await expect(page.locator("#toast")).to_contain_text(reason, timeout=12_000)


async def test_what_moved_a_decision_is_shown_though_it_is_told_later(opened: Open) -> None:
    async with opened(at=40) as (page, served):
        (decided,) = (
            each
            for each in served.records[:40]
            if each["kind"] == "decision" and each["command"]["operation"] == "GERMINATE"
        )
        first = page.locator("#decision-list li").first
        await expect(first).to_contain_text("because")
        moved = [
            {"node": "run", "feature": "budget_left/1", "effect": 0.314},
            {"node": "s1", "feature": "alpha/1", "effect": -0.2},
        ]
        told = {"kind": "explanation", "seq": 41, "moved": moved}
        await served.tell([{**served.records[39], **told, "command_id": decided["command"]["id"]}])
        await expect(first).to_contain_text(
            "moved most by: budget left of the run +0.31, alpha of s1 \N{MINUS SIGN}0.20"
        )


async def test_the_keyboard_reaches_a_seed_and_keeps_its_place_when_news_comes(
    opened: Open,
) -> None:
    async with opened(at=40) as (page, served):
        await page.locator("#seeds summary").first.focus()
        await page.keyboard.press("Enter")
        await expect(page.locator("#seeds details[open]")).to_have_count(1)
        await page.keyboard.press("Tab")
        await expect(page.get_by_role("button", name="Cull this seed")).to_be_focused()
        await served.tell(served.records[40:44])
        last = served.records[43]["epoch"]
        await expect(page.locator("#run-head")).to_contain_text(f"Epoch {last} of 32")
        await expect(page.get_by_role("button", name="Cull this seed")).to_be_focused()
        await expect(page.locator("#seeds details[open]")).to_have_count(1)


async def test_events_are_searched(opened: Open) -> None:
    async with opened(at=40) as (page, served):
        for number, text in enumerate(["the disk is slow", "a seed was culled"]):
            served.nissa.teller.note(
                Event(f"e{number}", 1.0, "warning", "test", "test.event", text)
            )
        await expect(page.locator("#event-list")).to_contain_text("the disk is slow")
        await page.get_by_role("searchbox").fill("cull")
        await expect(page.locator("#event-list li")).to_have_count(1)
        await expect(page.locator("#event-list")).to_contain_text("a seed was culled")


async def test_what_happened_on_another_day_is_told_with_its_date(opened: Open) -> None:
    async with opened(at=40) as (page, served):
        for day in (0, 200):
            time = served.nissa.context.clock.time() if day == 0 else day * 86_400.0
            served.nissa.teller.note(Event(f"e{day}", time, "info", "test", "test.event", "text"))
        times = page.locator("#event-list .when")
        await expect(times.nth(1)).to_have_text(re.compile(r"^\d\d:\d\d:\d\d$"))
        await expect(times.first).to_have_text(re.compile(r"^(19|20) Jul 1970, \d\d:\d\d:\d\d$"))


async def test_a_fact_of_a_service_is_told_as_people_say_it(opened: Open) -> None:
    async with opened(at=40) as (page, served):
        facts = {"conservative": False, "pid": 12_345, "waiting": 12_345}
        served.system["services"]["karn"] |= {"detail": facts}
        service = page.locator("#services .service", has_text="karn")
        await expect(service).to_contain_text("conservative no · pid 12345 · waiting 12,345")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
async def test_it_fits_the_width_and_every_text_can_be_read(
    opened: Open, width: int, scheme: str
) -> None:
    async with opened(width=width, scheme=scheme) as (page, served):
        registry, watch = served.nissa.context.registry, served.nissa.watch
        long = "tamiyo.field_report.of_a_metric_with_a_very_long_name"
        registry.gauge(long, "text").set(1.0)
        for ago_s in (120, 60, 0):
            watch.history.take(Reading.of(registry), served.nissa.context.clock.time() - ago_s)
        words = f"run state: error=file:///{'a-very-long-path/' * 6}"
        served.nissa.teller.note(
            Event("e1", 1.0, "info", "supervisor", f"log.{'state_' * 9}", words.replace("/", "_"))
        )
        await page.reload()
        await expect(page.locator("#event-list")).to_contain_text("a-very-long-path")
        await expect(page.locator("#past option", has_text="very_long_name")).to_be_attached()
        await page.locator("#seeds summary").first.click()
        sizes = await page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert sizes[0] <= sizes[1]
        poor: list[Any] = await page.evaluate(CONTRASTS)
        assert poor == []


CONTRASTS = """() => {
  // WCAG AA for every visible text against the nearest opaque ground behind it.
  const parse = (text) => (text.match(/[\\d.]+/g) ?? []).map(Number);
  const light = (rgb) => rgb.slice(0, 3).map((c) => c / 255)
    .map((c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const rgb = parse(getComputedStyle(e).backgroundColor);
      if (rgb.length === 3 || rgb[3] === 1) return rgb;
    }
    return [255, 255, 255];
  };
  const found = [];
  const walker = document.createTreeWalker(document.querySelector(".frame"), NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim() || !element.checkVisibility()) continue;
    if (element.closest("svg")) continue;
    const [a, b] = [light(parse(getComputedStyle(element).color)), light(ground(element))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) found.push([walker.currentNode.textContent, ratio.toFixed(2)]);
  }
  return found;
}"""
