"""Messages that could not be handled: look, deliver again, throw away."""

import re
from typing import Any

from aiohttp import web
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import DecodeError

from esper_async.leyline import PAYLOADS, TOPICS, EventEnvelope
from esper_async.nissa.ports import DeadLetterBox
from esper_async.nissa.problems import Problem
from esper_async.nissa.route import LIMIT, Call, Parameter, Route
from esper_async.nissa.schemas import WHOLE, array, ref, thing
from esper_async.oona.dead_letters import DeadLetter

_ID = re.compile(r"^(forged-)?\d{1,20}-\d{1,20}$")


async def list_letters(call: Call) -> web.Response:
    """Dead letters, oldest first."""
    after = call.query["after"]
    if after and not _ID.match(after):
        raise Problem(400, f"after={after!r}: expected the id of a letter, such as 1700000000000-0")
    letters = await _box(call).list(
        limit=call.query["limit"], after=after or "-", topic=call.query["topic"]
    )
    answer = web.json_response([_shown(letter) for letter in letters])
    if len(letters) == call.query["limit"]:
        url = call.request.rel_url.update_query({"after": letters[-1].letter_id})
        answer.headers["Link"] = f'<{url}>; rel="next"'
    return answer


async def show(call: Call) -> web.Response:
    """One dead letter with its message in readable form."""
    letter = await _found(call)
    return web.json_response({**_shown(letter), **_contents(letter)})


async def replay(call: Call) -> web.Response:
    """Put a message back on its stream."""
    letter = await _found(call)
    try:
        await _box(call).replay(letter.letter_id)
    except KeyError as error:
        raise _missing(call) from error
    return web.json_response(_shown(letter), status=202)


async def delete(call: Call) -> web.Response:
    """Throw a dead letter away."""
    letter = await _found(call)
    if await _box(call).purge(letter.letter_id) == 0:
        raise _missing(call)
    return web.Response(status=204)


async def replay_all(call: Call) -> web.Response:
    """Put every message back on its stream, or those of a topic."""
    replayed = await _box(call).replay_all(topic=_which(call))
    return web.json_response({"replayed": replayed}, status=202)


async def delete_all(call: Call) -> web.Response:
    """Throw every dead letter away, or those of a topic."""
    return web.json_response({"purged": await _box(call).purge_all(topic=_which(call))})


def _which(call: Call) -> str:
    """Return the topic whose letters are meant, "" for all: a slip of the pen must not mean all."""
    topic = str(call.query["topic"])
    if bool(topic) == bool(call.query["all"]):
        raise Problem(400, "Say which letters: topic=NAME for a topic's, or all=true; one of them.")
    return topic


def _box(call: Call) -> DeadLetterBox:
    try:
        return call.context.dead_letters()
    except RuntimeError as error:
        detail = f"The bus is away ({error}); /readyz says why."
        raise Problem(503, detail, headers={"Retry-After": "5"}) from error


async def _found(call: Call) -> DeadLetter:
    letter_id = call.path("letter")
    if not _ID.match(letter_id):
        raise _missing(call)
    try:
        return await _box(call).show(letter_id)
    except KeyError as error:
        raise _missing(call) from error


def _missing(call: Call) -> Problem:
    return Problem(404, f"There is no dead letter {call.path('letter')!r}; see /api/dead-letters.")


def _shown(letter: DeadLetter) -> dict[str, Any]:
    return {
        "id": letter.letter_id,
        "topic": letter.topic,
        "stream": letter.stream,
        "group": letter.group,
        "entry_id": letter.entry_id,
        "reason": letter.reason,
        "attempts": letter.attempts,
        "died_at": letter.died_at,
        "size_bytes": len(letter.wire),
    }


def _contents(letter: DeadLetter) -> dict[str, Any]:
    """The envelope and its payload as far as they can be read: it died for some reason."""
    try:
        envelope = EventEnvelope.FromString(letter.wire)
        told = MessageToDict(envelope, preserving_proto_field_name=True)
        told.pop("payload", None)
        spec = PAYLOADS.get(envelope.payload_type)
        payload = None if spec is None else spec.message.FromString(envelope.payload)
    except DecodeError as error:
        return {"envelope": None, "payload": None, "unreadable": str(error)}
    shown = None if payload is None else MessageToDict(payload, preserving_proto_field_name=True)
    return {"envelope": told, "payload": shown, "unreadable": None}


_ONE: dict[str, Any] = {"refusals": (404,)}
_TOPIC = Parameter("topic", "Only the letters of this topic.", default="", choices=tuple(TOPICS))
_ALL = Parameter(
    "all", "Those of every topic; say this or name a topic.", default="", choices=("true",)
)

ROUTES = (
    Route(
        method="GET", path="/api/dead-letters", handler=list_letters,
        text="Messages that could not be handled, oldest first.",
        answers={200: array(ref("DeadLetter"))},
        parameters=(LIMIT, Parameter("after", "Only letters behind this id.", default=""), _TOPIC),
    ),
    Route(
        method="DELETE", path="/api/dead-letters", handler=delete_all,
        text="Throw a topic's letters away, or all of them.",
        answers={200: thing({"purged": WHOLE})}, parameters=(_TOPIC, _ALL), change=True,
    ),
    Route(
        method="POST", path="/api/dead-letters/replay", handler=replay_all,
        text="Deliver a topic's letters again, or all of them.",
        answers={202: thing({"replayed": WHOLE})}, parameters=(_TOPIC, _ALL), change=True,
    ),
    Route(
        method="GET", path="/api/dead-letters/{letter}", handler=show,
        text="One of them with its message.", answers={200: ref("DeadLetter")}, **_ONE,
    ),
    Route(
        method="POST", path="/api/dead-letters/{letter}/replay", handler=replay,
        text="Deliver it again.", answers={202: ref("DeadLetter")}, change=True, **_ONE,
    ),
    Route(
        method="DELETE", path="/api/dead-letters/{letter}", handler=delete,
        text="Throw it away.", answers={204: None}, change=True, **_ONE,
    ),
)  # fmt: skip
