"""The catalogue, the library and the policies."""

import asyncio
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from aiohttp import web

from esper_async.karn.catalogue import Query
from esper_async.karn.errors import QueryRefusedError
from esper_async.karn.record import TIERS, Interface
from esper_async.karn.tallies import Outcome, Tally
from esper_async.nissa.problems import Problem
from esper_async.nissa.route import LIMIT, Call, Parameter, Route
from esper_async.nissa.schemas import MAP, array, ref


async def blueprints(call: Call) -> web.Response:
    """The fifty blueprints, or those that meet a query, with the outcomes told of each."""
    karn = call.context.blueprints
    asked = {name: value for name, value in call.query.items() if value is not None}
    records, headers = karn.records, {}
    if asked:
        try:
            selection = await karn.select(_query(asked))
        except QueryRefusedError as error:
            raise Problem(400, str(error)) from error
        except RuntimeError as error:
            raise Problem(503, str(error), headers={"Retry-After": "5"}) from error
        records = selection.records
        if selection.conservative:
            headers["Esper-Conservative"] = selection.conservative
    tallies = await karn.tallies()

    def outcomes(blueprint_id: str) -> dict[Outcome, int] | None:
        return None if tallies is None else tallies.get(blueprint_id, Tally()).outcomes

    shown = [{**asdict(each), "outcomes": outcomes(each.id)} for each in records]
    return web.json_response(shown, headers=headers)


def _query(asked: Mapping[str, Any]) -> Query:
    limits = {_LIMITS[name]: value for name, value in asked.items() if name in _LIMITS}
    if "tier" in asked:
        limits["tiers"] = (asked["tier"],)
    if "interface" in asked:
        limits["interface"] = Interface.parse(asked["interface"])
    return Query(**limits)


async def kernels(call: Call) -> web.Response:
    """What the library holds, newest first."""
    assets = await asyncio.to_thread(call.context.kernels.find, limit=call.query["limit"])
    return web.json_response([{"id": asset.id, **asdict(asset)} for asset in assets])


async def policies(call: Call) -> web.Response:
    """The learned policies; none where no registry is configured."""
    registry = call.context.policies
    if registry is None:
        return web.json_response([])
    try:
        return web.json_response(list(await asyncio.to_thread(registry.policies)))
    except ValueError as error:
        raise Problem(503, str(error)) from error


async def policy_history(call: Call) -> web.Response:
    """What happened to learned policies, newest first."""
    registry = call.context.policies
    if registry is None:
        return web.json_response([])
    try:
        told = await asyncio.to_thread(registry.history)
    except ValueError as error:
        raise Problem(503, str(error)) from error
    return web.json_response(list(told)[: call.query["limit"]])


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


_LIMITS = {
    "lowest_stage": "lowest_stage",
    "highest_stage": "highest_stage",
    "risk": "risk_ceiling",
    "parameters": "parameter_budget",
    "flops": "flop_budget",
    "latency_ms": "latency_budget_ms",
}
_ASKED = (
    Parameter("tier", "Only of this tier.", choices=TIERS),
    Parameter("interface", "Only what fits a site: spatial:CxHxW, sequence:TxD or feature:F."),
    Parameter("lowest_stage", "Only from this stage on.", "integer"),
    Parameter("highest_stage", "Only up to this stage.", "integer"),
    Parameter("risk", "Only up to this risk.", "number", high=1),
    Parameter("parameters", "Only what has at most so many parameters there.", "integer"),
    Parameter("flops", "Only what takes at most so many FLOPs a sample there.", "integer"),
    Parameter("latency_ms", "Only what was proved there to train a batch in so many ms.", "number"),
)

ROUTES = (
    Route(
        method="GET", path="/api/blueprints", handler=blueprints,
        text="Karn's catalogue: all of it, or what meets a query; one that names no tier means "
        "production. An adversarial blueprint is shown in the whole catalogue and meets no query.",
        answers={200: array(ref("Blueprint"))}, parameters=_ASKED,
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
        method="GET", path="/api/policies/history", handler=policy_history,
        text="What happened to learned policies, in the registry and at the controller's desk: "
        "published, staged, refused, activated, settled, rejected, put back; newest first.",
        answers={200: array(MAP)}, parameters=(LIMIT,),
    ),
    Route(
        method="POST", path="/api/policies/{policy}/activate", handler=activate,
        text="Make a version the active one.", answers={202: MAP}, refusals=(404, 409),
        change=True,
    ),
)  # fmt: skip
