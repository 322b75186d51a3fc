"""Is everything refused that should be, and counted? Attacks over real HTTP and by telemetry."""

import asyncio
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from yarl import URL

from esper_async.leyline import EventEnvelope, TelemetryPacket
from esper_async.nissa.access import Access
from esper_async.nissa.reading import Reading
from esper_async.runtime.metrics import Registry
from esper_async.study.bench.benchmark import (
    Bar,
    Benchmark,
    Effort,
    Mutant,
    Row,
    judged,
    replaced,
    wants,
)
from esper_async.study.bench.nissa_house import TOKEN, House, nissa_house

MOST_SERIES = 2_000
_BEARER = {"Authorization": f"Bearer {TOKEN}"}
_REFUSED, _COUNTED = "attacks that were let through", "refusals that were not counted"
_SERIES = "series after a flood of labels, names and runs"
_DROPS = "flooding points that left no trace"
_FLOOD = {Effort.SHORT: 2_000, Effort.FULL: 50_000}


@dataclass(frozen=True, slots=True)
class Attack:
    """A request that must be answered by one of these statuses."""

    name: str
    method: str
    path: str
    headers: Mapping[str, str]
    expected: tuple[int, ...]
    body: bytes | None = None


_JSON = {"Content-Type": "application/json"}
_RUN = b'{"name": "digits"}'
ATTACKS = (
    Attack("change without a token", "POST", "/api/runs", _JSON, (401,), _RUN),
    Attack("change with a wrong token", "POST", "/api/runs",
           {**_JSON, "Authorization": "Bearer wrong-token-of-some-length"}, (401,), _RUN),
    Attack("change with a token of another kind", "POST", "/api/runs",
           {**_JSON, "Authorization": "Basic YTpi"}, (401,), _RUN),
    Attack("form of another origin", "POST", "/api/runs",
           {"Origin": "http://evil.test", "Content-Type": "text/plain"}, (403,), _RUN),
    Attack("request that a browser calls cross-site", "POST", "/api/runs",
           {**_JSON, "Sec-Fetch-Site": "cross-site"}, (403,), _RUN),
    Attack("reading under a foreign name", "GET", "/api/runs", {"Host": "evil.test"}, (403,)),
    Attack("stream under a foreign name", "GET", "/ws/stream",
           {"Host": "evil.test", "Upgrade": "websocket", "Connection": "Upgrade",
            "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version": "13"},
           (403,)),
    Attack("body that is too large", "POST", "/api/runs", {**_JSON, **_BEARER}, (413,),
           b'{"name": "' + b"x" * 70_000 + b'"}'),
    Attack("body that is no JSON", "POST", "/api/runs", {**_JSON, **_BEARER}, (400,), b"{"),
    Attack("body that is nested without end", "POST", "/api/runs", {**_JSON, **_BEARER}, (400, 422),
           b"[" * 30_000),
    Attack("path out of the page", "GET", "/page/..%2f..%2faccess.py", {}, (404,)),
    Attack("path out of the page, doubled", "GET", "/page/....//....//access.py", {}, (404,)),
    Attack("path with a zero byte", "GET", "/page/style.css%00.html", {}, (404,)),
    Attack("run outside its folder", "GET", "/api/runs/..%2f..%2ftoken", {}, (404,)),
    Attack("file of a run outside its folder", "GET", "/api/runs/..%2f../file", {}, (404,)),
    Attack("message that does not exist", "POST", "/api/notifications/1'--/replay", _BEARER,
           (404,)),
)  # fmt: skip


def measure(effort: Effort) -> list[Row]:
    """Attack a served Nissa."""
    with tempfile.TemporaryDirectory(prefix="esper-guard-") as folder:
        return asyncio.run(_attacked(Path(folder), _FLOOD[effort]))


async def _attacked(folder: Path, flood: int) -> list[Row]:
    rows = []
    async with nissa_house(folder) as house:
        if wants(_REFUSED, _COUNTED):
            through, answered = await _attack(house)
            counted = Reading.of(house.registry).total("esper_nissa_requests_refused_total")
            rows += [
                judged(_REFUSED, len(through), "", Bar("at most", 0), note=", ".join(through)
                       or f"{len(ATTACKS)} attacks"),
                judged(_COUNTED, answered - counted, "", Bar("at most", 0),
                       note=f"{answered} refused"),
            ]  # fmt: skip
        if wants(_SERIES, _DROPS):
            rows += await _flooded(house, flood)
    return rows


async def _attack(house: House) -> tuple[list[str], int]:
    """Return the attacks that were not refused as they should be, and how many were."""
    through = []
    async with aiohttp.ClientSession() as http:
        for attack in ATTACKS:
            url = URL(house.url + attack.path, encoded=True)
            async with http.request(
                attack.method, url, headers=attack.headers, data=attack.body
            ) as answer:
                if answer.status not in attack.expected:
                    through.append(f"{attack.name} ({answer.status})")
    return through, len(ATTACKS) - len(through)


async def _flooded(house: House, count: int) -> list[Row]:
    packet = TelemetryPacket(version=1, packet_id="flood", source="tolaria")
    for number in range(count):
        packet.points.add(name="kasmina.alpha", value=1.0, labels={"seed": f"s{number}"})
        packet.points.add(name=f"tolaria.made_up{number}.x", value=1.0)
        packet.points.add(name="tolaria.training.loss", value=1.0, labels={"run": f"r{number}"})
        packet.points.add(name="tolaria.validation.loss", value=1.0, labels={f"l{number}": "x"})
    await house.nissa.ingest.handle(packet, EventEnvelope())
    reading = Reading.of(house.registry)
    flooded = ("kasmina_alpha", "tolaria_training_loss", "tolaria_validation_loss", "tolaria_made")
    kept = [
        sample
        for name, samples in reading.samples.items()
        if name.startswith(tuple(f"esper_{each}" for each in flooded))
        for sample in samples
    ]
    dropped = reading.total("esper_nissa_telemetry_dropped_total")
    folded = reading.total("esper_runtime_labels_folded_total")
    lost = 4 * count - len(kept) - dropped - folded
    return [
        judged(_SERIES, len(kept), "", Bar("at most", MOST_SERIES), note=f"{4 * count} points"),
        judged(_DROPS, max(0.0, lost), "", Bar("at most", 0),
               note=f"{dropped:.0f} dropped, {folded:.0f} taken under 'other'"),
    ]  # fmt: skip


def _admits_everybody(_access: Access, _request: Any, **_: Any) -> str:
    return "token"


BENCHMARK = Benchmark(
    name="api-guard",
    question="is everything refused that should be, and counted?",
    measure=measure,
    mutants=(
        Mutant(
            "anybody is let in",
            "neither token nor origin nor host name are looked at",
            lambda: replaced("esper_async.nissa.access.Access.admit", _admits_everybody),
            fails=(_REFUSED,),
        ),
        Mutant(
            "refusals go uncounted",
            "the counter of refused requests does not move",
            lambda: replaced("esper_async.nissa.route.count_refusal", lambda *_: None),
            fails=(_COUNTED,),
        ),
        Mutant(
            "labels without a bound",
            "every new value of a label makes a series",
            lambda: replaced(
                "esper_async.study.bench.nissa_house.Registry", lambda: Registry(label_limit=10**9)
            ),
            fails=(_SERIES,),
        ),
        Mutant(
            "drops go uncounted",
            "what is refused of telemetry leaves no trace",
            lambda: replaced("esper_async.nissa.ingest.Ingest._drop", lambda *_: None),
            fails=(_DROPS,),
        ),
    ),
    timed=False,
)
