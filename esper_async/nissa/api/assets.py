"""The catalogue, the library and the policies."""

import asyncio
from dataclasses import asdict

from aiohttp import web

from esper_async.karn.tallies import Outcome, Tally
from esper_async.nissa.problems import Problem
from esper_async.nissa.route import LIMIT, Call, Route
from esper_async.nissa.schemas import MAP, array, ref


async def blueprints(call: Call) -> web.Response:
    """The fifty blueprints, each with the outcomes that field reports told of it."""
    tallies = await call.context.blueprints.tallies()

    def outcomes(blueprint_id: str) -> dict[Outcome, int] | None:
        return None if tallies is None else tallies.get(blueprint_id, Tally()).outcomes

    records = call.context.blueprints.records
    return web.json_response([{**asdict(each), "outcomes": outcomes(each.id)} for each in records])


async def kernels(call: Call) -> web.Response:
    """What the library holds, newest first."""
    assets = await asyncio.to_thread(call.context.kernels.find, limit=call.query["limit"])
    return web.json_response([{"id": asset.id, **asdict(asset)} for asset in assets])


async def policies(call: Call) -> web.Response:
    """The versions of the learned policy; none while no learner is configured."""
    registry = call.context.policies
    return web.json_response([] if registry is None else list(registry.policies()))


async def activate(call: Call) -> web.Response:
    """Make a version of the policy the active one."""
    registry, policy_id = call.context.policies, call.path("policy")
    if registry is None:
        raise Problem(404, f"There is no policy {policy_id!r}: no learner is configured.")
    try:
        await asyncio.to_thread(registry.activate, policy_id)
    except LookupError as error:
        raise Problem(404, f"There is no policy {policy_id!r}; see /api/policies.") from error
    except ValueError as error:
        raise Problem(409, str(error)) from error
    return web.json_response({"id": policy_id, "state": "activating"}, status=202)


ROUTES = (
    Route(
        method="GET", path="/api/blueprints", handler=blueprints, text="Karn's catalogue.",
        answers={200: array(ref("Blueprint"))},
    ),
    Route(
        method="GET", path="/api/kernels", handler=kernels,
        text="Urza's assets: certificates and kernels.",
        answers={200: array(ref("Kernel"))}, parameters=(LIMIT,),
    ),
    Route(
        method="GET", path="/api/policies", handler=policies,
        text="Versions of the learned policy.", answers={200: array(MAP)},
    ),
    Route(
        method="POST", path="/api/policies/{policy}/activate", handler=activate,
        text="Make a version the active one.", answers={202: MAP}, refusals=(404, 409),
        change=True,
    ),
)  # fmt: skip
