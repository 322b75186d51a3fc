"""What is shipped for Prometheus and Grafana, before real ones of the former."""

import asyncio
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from esper_async.nissa.alert_rules import RULES
from esper_async.nissa.past_metrics import FromPrometheus, PastError
from esper_async.nissa.prometheus import prometheus_program
from esper_async.runtime.metrics import Registry
from esper_async.testing.prometheus import running_prometheus
from tests.nissa.every_metric import full_registry
from tests.nissa.shipped import RULE_FILES, SHIPPED, asked_names, chosen_from, queries

LINT_OF_A_NAME = (
    "esper_tolaria_throughput_samples_per_s metric names should not contain abbreviated units"
)
"""The one name that is fixed by contract and that promtool would spell otherwise."""
needs_prometheus = pytest.mark.skipif(
    prometheus_program("promtool") is None, reason="needs Prometheus: apt-get install prometheus"
)


def promtool(*arguments: str, given: str = "") -> str:
    program = prometheus_program("promtool")
    assert program is not None
    done = subprocess.run(
        [program, *arguments], input=given, capture_output=True, text=True, check=False
    )
    told = done.stdout + done.stderr
    assert done.returncode == 0 or told.strip() == LINT_OF_A_NAME, told
    return told


@needs_prometheus
def test_configuration_and_rules_are_valid_and_the_rules_hold_as_long_as_they_say() -> None:
    promtool("check", "config", str(SHIPPED / "prometheus.yml"))
    promtool("test", "rules", str(SHIPPED / "rules" / "alerts_test.yml"))


@needs_prometheus
def test_every_metric_is_as_prometheus_wants_it() -> None:
    body, _ = full_registry().exposition()
    promtool("check", "metrics", given=_without_created(body.decode()))


def _without_created(text: str) -> str:
    """prometheus-client adds a time of creation to each; promtool takes it for a unit."""
    return re.sub(r"^(# (HELP|TYPE) )?\w+_created.*\n", "", text, flags=re.MULTILINE)


def test_prometheus_is_given_every_alert_that_nissa_has() -> None:
    text = (SHIPPED / "rules" / "alerts.yml").read_text()
    shipped = set(re.findall(r"- alert: (\w+)", text))
    assert shipped == {rule.name for rule in RULES} | {"esper_down"}
    tested = (SHIPPED / "rules" / "alerts_test.yml").read_text()
    assert shipped <= set(re.findall(r"alertname: (\w+)", tested))


def test_openmetrics_is_given_to_those_who_ask_for_it() -> None:
    body, kind = full_registry().exposition("application/openmetrics-text; version=1.0.0")
    assert kind.startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")
    _, plain = full_registry().exposition("text/plain")
    assert plain.startswith("text/plain")


def test_every_metric_says_what_it_is_and_in_which_unit() -> None:
    for family in full_registry().collectors.collect():
        assert len(family.documentation) >= 8, family.name
        if family.name.endswith("_seconds"):
            assert not re.search(r"\bms\b|milliseconds", family.documentation), family.name


@needs_prometheus
async def test_a_real_prometheus_knows_every_metric_of_rules_and_dashboards(
    tmp_path: Path,
) -> None:
    registry = full_registry()
    async with served(registry) as target:
        config = config_for(tmp_path, target)
        async with running_prometheus(config, tmp_path / "data") as prometheus:
            await until_scraped(prometheus)
            known = set(await prometheus.get("/api/v1/label/__name__/values"))
            rules = "".join(path.read_text() for path in RULE_FILES)
            recorded = set(re.findall(r"record: (\S+)", rules))
            for query in queries():
                await prometheus.get("/api/v1/query", {"query": query})
            for metric, label in chosen_from():
                chosen = {"match[]": metric}
                assert await prometheus.get(f"/api/v1/label/{label}/values", chosen), metric
            assert asked_names() - known == set()
            text = re.sub("#.*", "", rules) + "\n".join(queries())
            assert set(re.findall(r"\w+:esper\w+:\w+", text)) <= recorded
            listed = await prometheus.get("/api/v1/rules")
            health = [rule["health"] for group in listed["groups"] for rule in group["rules"]]
            assert set(health) <= {"ok", "unknown"}


@needs_prometheus
async def test_page_and_api_can_read_the_past_from_a_prometheus(tmp_path: Path) -> None:
    registry = Registry()
    registry.gauge("oona.queue.depth", "text", ["topic"]).set(3.0, topic="alerts")
    async with served(registry) as target:
        config = config_for(tmp_path, target)
        async with running_prometheus(config, tmp_path / "data") as prometheus:
            await until_scraped(prometheus)
            past = FromPrometheus(prometheus.url)
            assert "esper_oona_queue_depth" in await past.names()
            now = await _time(prometheus)
            found = await past.range(
                "esper_oona_queue_depth", since=now - 120, until=now, step_s=60
            )
            assert found is not None
            [series] = found.series
            assert series.labels["topic"] == "alerts"
            assert series.points[-1].value == 3.0
            assert await past.range("esper_none", since=now - 60, until=now, step_s=60) is None


async def _time(prometheus: Any) -> float:
    result = await prometheus.get("/api/v1/query", {"query": "time()"})
    return float(result["result"][1])


def served(registry: Registry) -> Any:
    async def metrics(request: web.Request) -> web.Response:
        body, kind = registry.exposition(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": kind})

    app = web.Application()
    app.router.add_get("/metrics", metrics)
    return TestServer(app)


def config_for(folder: Path, target: TestServer) -> Path:
    """The shipped configuration with our target and no waiting."""
    text = (SHIPPED / "prometheus.yml").read_text()
    text = text.replace("127.0.0.1:8787", f"127.0.0.1:{target.port}")
    text = text.replace("15s", "1s").replace("rules/", f"{SHIPPED}/rules/")
    path = folder / "prometheus.yml"
    path.write_text(text)
    return path


async def until_scraped(prometheus: Any) -> None:
    async with asyncio.timeout(30):
        while True:
            found = await prometheus.get("/api/v1/query", {"query": 'up{job="esper"} == 1'})
            if found["result"]:
                return
            await asyncio.sleep(0.1)


@pytest.mark.parametrize(
    "body",
    ["", "null", "[]", "3", "{}", '{"status": "success"}', '{"status": "success", "data": 3}',
     '{"status": "success", "data": {"result": [{}]}}', "[" * 5_000,
     '{"status": "success", "data": {"result": [{"metric": {}, "values": [["x", "y"]]}]}}'],
)  # fmt: skip
async def test_an_answer_that_no_prometheus_gives_is_told_as_such(body: str) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(text=body, content_type="application/json")

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    async with TestServer(app) as server:
        past = FromPrometheus(str(server.make_url("/")))
        with pytest.raises(PastError, match="Prometheus at"):
            await past.range("esper_x", since=0.0, until=60.0, step_s=60)


async def test_a_value_that_is_none_leaves_a_gap() -> None:
    values = [[0, "1.5"], [60, "NaN"], [120, "+Inf"]]
    told = {"status": "success", "data": {"result": [{"metric": {"run": "r"}, "values": values}]}}

    async def answer(_: web.Request) -> web.Response:
        return web.json_response(told)

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    async with TestServer(app) as server:
        past = FromPrometheus(str(server.make_url("/")))
        found = await past.range("esper_x", since=0.0, until=180.0, step_s=60)
    assert found is not None
    assert [[point.to_json() for point in each.points] for each in found.series] == [
        [{"time": 0.0, "value": 1.5, "low": None, "high": None}]
    ]
