"""How soon does the page show something useful, how late is it, and what does a day of it take?

A headless Chromium opens the page of a run that has gone on for an hour. Useful is the first frame
in which verdict, run and curves are there. Then the run goes on: single boundaries, each timed from
when it was told to the frame that shows it, and hours of it, with what else happens in hours, as
fast as the page takes them. What the page's process holds in the end is its own memory alone.
"""

import asyncio
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from esper_async.study.bench.benchmark import (
    Bar,
    Benchmark,
    Effort,
    Mutant,
    Row,
    judged,
    shown,
    wants,
)
from esper_async.study.bench.chromium import Tab, chromium_tab
from esper_async.study.bench.page_process import PageProcess, page_process
from esper_async.study.bench.up_process import run_in_every_python

USEFUL = "first useful paint"
UPDATE = "update after a boundary was told, longest"
MEMORY = "the page's memory after eight hours"
MOST_USEFUL_MS, MOST_UPDATE_MS, MOST_MEMORY_MB = 1_000.0, 1_000.0, 200.0
_BEFORE_H, _HOURS = 1.0, 8.0
_LOADS = {Effort.SHORT: 2, Effort.FULL: 9}
_UPDATES = {Effort.SHORT: 2, Effort.FULL: 20}
_PATIENCE_S, _POLL_S = 60.0, 0.02
_BUSY, _BEYOND_DOUBT = 0.2, 2.0
_WATCH = """
(() => {
  const useful = () => document.querySelector("#verdict .good, #verdict .warn, #verdict .bad")
    && document.querySelector("#run-head .tile") && document.querySelector("#run-charts canvas");
  const look = () => {
    if (!useful() || document.querySelector("#verdict h1").textContent === "Connecting") return;
    watch.disconnect();
    requestAnimationFrame(() => setTimeout(() => { window.usefulAt = performance.now(); }));
  };
  const watch = new MutationObserver(look);
  watch.observe(document, { childList: true, subtree: true, characterData: true });
})();
"""
_SHOWS = """
new Promise((resolve) => {
  const wanted = "Epoch %d of";
  const look = () => document.querySelector("#run-head").textContent.includes(wanted)
    ? setTimeout(() => resolve(true)) : requestAnimationFrame(look);
  look();
})
"""


def measure(effort: Effort) -> list[Row]:
    """Serve a run of an hour, open its page, and let the run go on."""
    with (
        tempfile.TemporaryDirectory(prefix="esper-page-") as folder,
        page_process(Path(folder) / "state") as served,
    ):
        served.tell(_BEFORE_H)
        return asyncio.run(_opened(served, Path(folder) / "profile", effort))


async def _opened(served: PageProcess, profile: Path, effort: Effort) -> list[Row]:
    rows = []
    async with chromium_tab(profile) as tab:
        await tab.ask("Page.enable")
        await tab.ask("Network.enable")
        await tab.ask("Network.setCacheDisabled", cacheDisabled=True)
        await tab.ask("Page.addScriptToEvaluateOnNewDocument", source=_WATCH)
        busy = _Waiting()
        loads = [
            await _load(tab, served.url) for _ in range(_LOADS[effort] if wants(USEFUL) else 1)
        ]
        if wants(USEFUL):
            best, painted = min(loads)
            usual = statistics.median(useful for useful, _ in loads)
            rows.append(
                judged(USEFUL, best, "ms", Bar("at most", MOST_USEFUL_MS),
                       note=f"best of {len(loads)} loads with nothing cached, median {usual:.0f} "
                       f"ms; first paint of anything after {painted:.0f} ms",
                       doubt=busy.doubt(best, MOST_USEFUL_MS))
            )  # fmt: skip
        if wants(UPDATE):
            busy = _Waiting()
            late = [await _update_ms(tab, served) for _ in range(_UPDATES[effort])]
            rows.append(
                judged(UPDATE, max(late), "ms", Bar("at most", MOST_UPDATE_MS),
                       note=f"of {len(late)}; median {statistics.median(late):.0f} ms",
                       doubt=busy.doubt(max(late), MOST_UPDATE_MS))
            )  # fmt: skip
        if wants(MEMORY):
            rows += await _memory_rows(tab, served)
    return rows


async def _load(tab: Tab, url: str) -> tuple[float, float]:
    """Open the page; return when it was useful, and when anything was painted, in ms."""
    await tab.ask("Page.navigate", url=url)
    await _until(tab, "window.usefulAt !== undefined")
    useful: float = await tab.value("window.usefulAt")
    painted: float = await tab.value(
        "performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? 0"
    )
    return useful, painted


async def _until(tab: Tab, expression: str) -> None:
    async with asyncio.timeout(_PATIENCE_S):
        while not await tab.value(expression):  # noqa: ASYNC110 - of another process
            await asyncio.sleep(_POLL_S)


async def _update_ms(tab: Tab, served: PageProcess) -> float:
    boundary = await asyncio.to_thread(served.tell, 0.0)
    began = time.perf_counter()
    await tab.value(_SHOWS % boundary)
    return (time.perf_counter() - began) * 1e3


async def _memory_rows(tab: Tab, served: PageProcess) -> list[Row]:
    before = await _held_mb(tab)
    boundary = await asyncio.to_thread(served.tell, _HOURS - _BEFORE_H)
    await tab.value(_SHOWS % boundary)
    held = await _held_mb(tab)
    heap = await tab.ask("Runtime.getHeapUsage")
    return [
        judged(MEMORY, held, "MB", Bar("at most", MOST_MEMORY_MB),
               note=f"{boundary} boundaries, events and status beside; {before:.0f} MB after "
               f"{_BEFORE_H:g} h; of it scripts hold {heap['usedSize'] / 1e6:.0f} MB"),
        shown("elements of the page", await tab.value("document.querySelectorAll('*').length"), ""),
    ]  # fmt: skip


async def _held_mb(tab: Tab) -> float:
    """Return the memory that the page's own process shares with no other, in MB, garbage apart."""
    await tab.ask("HeapProfiler.collectGarbage")
    return tab.private_bytes() / 1e6


class _Waiting:
    """How much of a time somebody on this machine stood ready and waited for a core."""

    def __init__(self) -> None:
        self._began, self._waited = time.monotonic(), _waited_s()

    def doubt(self, took_ms: float, most_ms: float) -> str:
        """Say why a time over its bar proves nothing; empty if it does, or is not over it."""
        if not most_ms < took_ms <= _BEYOND_DOUBT * most_ms:
            return ""
        share = (_waited_s() - self._waited) / (time.monotonic() - self._began)
        if share <= _BUSY:
            return ""
        return f"somebody waited for a core for {share:.0%} of the time: others are at work here"


def _waited_s() -> float:
    try:
        some = Path("/proc/pressure/cpu").read_text().splitlines()[0]
    except OSError:
        return 0.0
    return int(some.rpartition("total=")[2]) / 1e6


# -- mutants -------------------------------------------------------------------------------------

_SERVED = """
import time
from esper_async.nissa.api import page
_whole = page.contents
def contents(name):
    {deed}
page.contents = contents
"""
_SLOW = _SERVED.format(deed="time.sleep(0.15); return _whole(name)")
_HOARDS = _SERVED.format(
    deed="""body, tag, kind = _whole(name)
    if name == "js/store.js":
        body = body.replace(
            b"  picture.updatedAt = view.updated_at;",
            b"  picture.updatedAt = view.updated_at; (window.kept ??= []).push("
            b"structuredClone(picture.rows), structuredClone(picture.rows));",
        )
    return body, tag, kind"""
)
_LATE = """
import esper_async.nissa.teller as teller
teller._GATHER_S = 3.0
"""


def _broken(source: str) -> Any:
    return lambda: run_in_every_python(source)


BENCHMARK = Benchmark(
    name="page",
    question="is the page there at once, current, and still light after a day?",
    measure=measure,
    gross_mutants=True,
    mutants=(
        Mutant(
            "a slow disk under the page",
            "each of its files is read for 150 ms",
            _broken(_SLOW),
            fails=(USEFUL,),
        ),
        Mutant(
            "news is gathered for three seconds",
            "the stream tells what is new now and then",
            _broken(_LATE),
            fails=(UPDATE,),
        ),
        Mutant(
            "nothing is forgotten",
            "with every news the page keeps what it had",
            _broken(_HOARDS),
            fails=(MEMORY,),
        ),
    ),
)
