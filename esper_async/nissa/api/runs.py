"""Runs: list them, submit one, look at one, steer it."""

from typing import Any

from aiohttp import web

from esper_async.nissa.problems import Problem
from esper_async.nissa.route import Call, Parameter, Route
from esper_async.nissa.run_list import find_run, list_runs, show_run
from esper_async.nissa.run_summary import summary_of
from esper_async.nissa.schemas import MAP, TEXT, WHOLE, array, ref
from esper_async.tamiyo.errors import UnknownRunError
from esper_async.tolaria.emergency import LEVELS, MOST_REASON
from esper_async.tolaria.run_file import load_run
from esper_async.tolaria.runs import Run, RunConflictError

SUBMISSION: dict[str, Any] = {
    "oneOf": [
        {
            "type": "object",
            "properties": {"name": TEXT},
            "required": ["name"],
            "additionalProperties": False,
        },
        {
            "type": "object",
            "properties": {"run": MAP, "growth": MAP},
            "required": ["run"],
            "additionalProperties": False,
        },
    ]
}
ROLLBACK: dict[str, Any] = {
    "type": "object",
    "properties": {"to_boundary": {**WHOLE, "minimum": 0}},
    "additionalProperties": False,
}
EMERGENCY: dict[str, Any] = {
    "type": "object",
    "properties": {
        "level": {"type": "string", "enum": [level.lower() for level in LEVELS]},
        "reason": {"type": "string", "minLength": 1, "maxLength": MOST_REASON},
    },
    "required": ["level", "reason"],
    "additionalProperties": False,
}


async def list_all(call: Call) -> web.Response:
    """Every run, newest first."""
    return web.json_response(list_runs(call.context.hub, call.context.runs))


async def submit(call: Call) -> web.Response:
    """Queue a new run."""
    body = call.body
    if "name" in body and "run" not in body:
        name = body["name"]
        if not isinstance(name, str) or not name or set(body) != {"name"}:
            raise Problem(422, 'Send {"name": "digits"}, or a run file as JSON with "run".')
        run = call.context.runs.submit(load_run(name))
    else:
        run = call.context.runs.submit(body)
    answer = web.json_response(summary_of(run, None), status=201)
    answer.headers["Location"] = f"/api/runs/{run.id}"
    return answer


async def show(call: Call) -> web.Response:
    """One run."""
    return web.json_response(await show_run(call.context.hub, call.context.runs, call.path("run")))


async def picture(call: Call) -> web.Response:
    """Everything about a run that the record numbered `after` did not yet tell."""
    run_id = call.path("run")
    hub = call.context.hub
    run = find_run(call.context.runs, run_id)
    if not hub.knows(run_id):
        if run is None:
            raise UnknownRunError(run_id)
        await hub.catch_up(run_id)
    told = await hub.picture(run_id)
    view = told.view(call.query["after"])
    view["run"] = {**summary_of(run, told.summary()), "seeds": None}
    return web.json_response(view)


async def pause(call: Call) -> web.Response:
    """Hold a run where it is."""
    return _accepted(call, call.context.runs.pause(call.path("run")))


async def resume(call: Call) -> web.Response:
    """Let a paused run go on."""
    return _accepted(call, call.context.runs.resume(call.path("run")))


async def stop(call: Call) -> web.Response:
    """End a run, keeping what it has."""
    return _accepted(call, call.context.runs.stop(call.path("run")))


async def rollback(call: Call) -> web.Response:
    """Send a run back to an earlier boundary, or to its last checkpoint."""
    to_boundary = call.body.get("to_boundary")
    whole = isinstance(to_boundary, int) and not isinstance(to_boundary, bool)
    if set(call.body) - {"to_boundary"} or (to_boundary is not None and not whole):
        raise Problem(422, 'Send {"to_boundary": N} with a boundary of this run, or nothing.')
    if to_boundary is not None and to_boundary < 0:
        raise Problem(422, f"to_boundary={to_boundary}: a boundary is 0 or more.")
    run_id = call.path("run")
    if to_boundary is not None:
        await _check_passed(call, run_id, to_boundary)
    return _accepted(call, call.context.runs.rollback(run_id, to_boundary))


async def _check_passed(call: Call, run_id: str, boundary: int) -> None:
    """Refuse at once what the run would refuse later: a boundary that it has not come to."""
    hub, run = call.context.hub, call.context.runs.get(run_id)
    rows = (await hub.picture(run_id)).rows if hub.knows(run_id) else []
    if rows and not run.ended and boundary > rows[-1]["boundary"]:
        present = rows[-1]["boundary"]
        raise RunConflictError(
            f"run {run_id} cannot go back to boundary {boundary}: it has only come to {present}"
        )


async def emergency(call: Call) -> web.Response:
    """Freeze a run at once, send it back, or slow it down: by how bad the emergency is."""
    level, reason = call.body.get("level"), call.body.get("reason")
    known = {name.lower(): name for name in LEVELS}
    if not isinstance(level, str) or level not in known or set(call.body) - {"level", "reason"}:
        choices = ", ".join(known)
        raise Problem(422, f'Send {{"level": L, "reason": "why"}} with L one of {choices}.')
    if not isinstance(reason, str) or not 1 <= len(reason) <= MOST_REASON:
        raise Problem(422, f"An emergency says why, in a reason of 1 to {MOST_REASON} characters.")
    run = await call.context.runs.emergency(call.path("run"), known[level], reason)
    return _accepted(call, run)


async def list_seeds(call: Call) -> web.Response:
    """The seeds of a run, those that ended included."""
    run = await show_run(call.context.hub, call.context.runs, call.path("run"))
    return web.json_response(run["seeds"])


async def cull(call: Call) -> web.Response:
    """Remove a seed from a run; 409 when it has been kept for good."""
    run_id, seed_id = call.path("run"), call.path("seed")
    run = await show_run(call.context.hub, call.context.runs, run_id)
    seed = next((seed for seed in run["seeds"] if seed["id"] == seed_id), None)
    if seed is None:
        raise Problem(404, f"Run {run_id} has no seed {seed_id!r}; see /api/runs/{run_id}/seeds.")
    told = await call.context.hub.picture(run_id)
    stages = {entry["to_stage"] for entry in told.seeds[seed_id].lane} | {seed["stage"]}
    if "FOSSILIZED" in stages:
        raise RunConflictError(f"seed {seed_id} is fossilised: it is part of the network for good")
    if stages & {"CULLED", "EMBARGOED", "RESETTING"}:
        raise RunConflictError(f"seed {seed_id} has been culled already")
    return _accepted(call, call.context.runs.cull(run_id, seed_id))


def _accepted(call: Call, run: Run) -> web.Response:
    told = next((item for item in call.context.hub.runs() if item["id"] == run.id), None)
    return web.json_response(summary_of(run, told), status=202)


_AFTER = Parameter("after", "The last record that is known already.", "integer", 0)
_STEER: dict[str, Any] = {"answers": {202: ref("Run")}, "refusals": (404, 409), "change": True}

ROUTES = (
    Route(
        method="GET", path="/api/runs", handler=list_all, text="Every run, newest first.",
        answers={200: array(ref("Run"))},
    ),
    Route(
        method="POST", path="/api/runs", handler=submit, text="Queue a new run.",
        answers={201: ref("Run")}, body=SUBMISSION, change=True, refusals=(422,),
    ),
    Route(
        method="GET", path="/api/runs/{run}", handler=show, text="One run.",
        answers={200: ref("Run")}, refusals=(404,),
    ),
    Route(
        method="GET", path="/api/runs/{run}/picture", handler=picture,
        text="The whole story of a run, or what came after a record.",
        answers={200: ref("Picture")}, refusals=(404,), parameters=(_AFTER,),
    ),
    Route(
        method="POST", path="/api/runs/{run}/pause", handler=pause,
        text="Hold a run where it is.", **_STEER,
    ),
    Route(
        method="POST", path="/api/runs/{run}/resume", handler=resume,
        text="Let a paused run go on.", **_STEER,
    ),
    Route(
        method="POST", path="/api/runs/{run}/stop", handler=stop,
        text="End a run, keeping what it has.", **_STEER,
    ),
    Route(
        method="POST", path="/api/runs/{run}/rollback", handler=rollback,
        text="Send a run back to an earlier boundary.", body=ROLLBACK,
        answers={202: ref("Run")}, refusals=(404, 409, 422), change=True,
    ),
    Route(
        method="POST", path="/api/runs/{run}/emergency", handler=emergency,
        text="Freeze a run at once (critical), send it back (severe, major) or slow it (minor).",
        body=EMERGENCY, answers={202: ref("Run")}, refusals=(404, 409, 422), change=True,
    ),
    Route(
        method="GET", path="/api/runs/{run}/seeds", handler=list_seeds,
        text="The seeds of a run, those that ended included.",
        answers={200: array(ref("Seed"))}, refusals=(404,),
    ),
    Route(
        method="POST", path="/api/runs/{run}/seeds/{seed}/cull", handler=cull,
        text="Remove a seed from a run.", **_STEER,
    ),
)  # fmt: skip
