"""A run to take along: its run file, and its whole story as one HTML file."""

import asyncio
import re
from dataclasses import asdict

from aiohttp import web

from esper_async.nissa.problems import Problem
from esper_async.nissa.report import report_html
from esper_async.nissa.route import Call, Route
from esper_async.nissa.run_list import find_run
from esper_async.nissa.run_summary import summary_of
from esper_async.nissa.run_text import run_file_text
from esper_async.tamiyo.errors import UnknownRunError


async def run_file(call: Call) -> web.Response:
    """The run file that makes the same run again."""
    hub, run = call.context.hub, call.context.runs.get(call.path("run"))
    started = (await hub.picture(run.id)).start if hub.knows(run.id) else None
    return web.Response(
        text=run_file_text(run.config, started),
        content_type="application/toml",
        headers={"Content-Disposition": _attachment(run.name, "toml")},
    )


async def report(call: Call) -> web.Response:
    """The story of a run as one file that needs nothing else."""
    context, run_id = call.context, call.path("run")
    run = find_run(context.runs, run_id)
    if not context.hub.knows(run_id):
        if run is None:
            raise UnknownRunError(run_id)
        raise Problem(409, f"Run {run_id} has not begun; there is nothing to report yet.")
    picture = await context.hub.picture(run_id)
    view = picture.view()
    view["run"] = {**summary_of(run, picture.summary()), "seeds": None}
    text = await asyncio.to_thread(
        report_html,
        view,
        run_file="" if run is None else run_file_text(run.config, picture.start),
        blueprints=[asdict(each) for each in context.blueprints.records],
        versions=context.versions,
        made_at=context.clock.time(),
    )
    return web.Response(
        text=text,
        content_type="text/html",
        headers={"Content-Disposition": _attachment(view["run"]["name"], "html")},
    )


def _attachment(name: str, ending: str) -> str:
    return f'attachment; filename="{re.sub(r"[^A-Za-z0-9._-]", "-", name)}.{ending}"'


ROUTES = (
    Route(
        method="GET", path="/api/runs/{run}/file", handler=run_file,
        text="The run file that makes the same run again.",
        answers={200: None}, refusals=(404,), media="application/toml",
    ),
    Route(
        method="GET", path="/api/runs/{run}/report", handler=report,
        text="The story of a run as one HTML file that needs nothing else.",
        answers={200: None}, refusals=(404, 409), media="text/html",
    ),
)  # fmt: skip
