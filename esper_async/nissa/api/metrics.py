"""The metrics' past, and the error budgets that are drawn up from it."""

from aiohttp import web

from esper_async.nissa.past_metrics import PastError
from esper_async.nissa.problems import Problem
from esper_async.nissa.route import Call, Parameter, Route
from esper_async.nissa.schemas import TEXT, array, ref

_DAY_S = 86_400
_LONGEST_S = 31 * _DAY_S
_MOST_POINTS = 2_000


async def names(call: Call) -> web.Response:
    """The names that have a past."""
    try:
        return web.json_response(await call.context.past.names())
    except PastError as error:
        raise Problem(503, str(error), headers={"Retry-After": "10"}) from error


async def history(call: Call) -> web.Response:
    """One name's past, in equal steps."""
    now = call.context.clock.time()
    until = call.query["until"] if call.query["until"] is not None else now
    since = call.query["since"] if call.query["since"] is not None else until - 3_600
    step_s = int(call.query["step"]) // 60 * 60
    if since >= until or until - since > _LONGEST_S:
        raise Problem(400, f"since={since:g}: expected up to 31 days before until={until:g}")
    if (until - since) / step_s > _MOST_POINTS:
        least_s = -(-int((until - since) / _MOST_POINTS) // 60) * 60
        raise Problem(400, f"step={step_s}: expected at least {least_s} for so long a time")
    name = call.query["name"]
    try:
        past = await call.context.past.range(name, since=since, until=until, step_s=step_s)
    except PastError as error:
        raise Problem(503, str(error), headers={"Retry-After": "10"}) from error
    if past is None:
        raise Problem(404, f"{name!r} has no past; /api/metrics/names lists what has.")
    return web.json_response(past.to_json())


async def objectives(call: Call) -> web.Response:
    """Every objective with its budget."""
    return web.json_response([budget.to_json() for budget in call.context.budgets()])


ROUTES = (
    Route(
        method="GET", path="/api/metrics/names", handler=names,
        text="The exposed names of metrics that have a past.", answers={200: array(TEXT)},
    ),
    Route(
        method="GET", path="/api/metrics/history", handler=history,
        text="The past of one metric: a counter by its increase, a level by mean, low and high. "
        "A value of null was not measured.",
        answers={200: ref("MetricHistory")}, refusals=(404,),
        parameters=(
            Parameter("name", "The exposed name.", pattern="^[a-z_][a-z0-9_]{0,150}$",
                      required=True),
            Parameter("since", "From this Unix time on; an hour before `until`.", "number"),
            Parameter("until", "Up to this Unix time; now.", "number"),
            Parameter("step", "Seconds a bucket, whole minutes; below an hour only a day is known.",
                      "integer", 60, 60, _DAY_S),
        ),
    ),
    Route(
        method="GET", path="/api/slos", handler=objectives,
        text="The service level objectives: budgets of thirty days and how fast they go.",
        answers={200: array(ref("Budget"))},
    ),
)  # fmt: skip
