"""Whatever bytes come, a consumer refuses them, counts why, and goes on.

`bench bus-fuzz` sends many more, and looks at memory; here they go to every kind of server.
"""

import random
from collections import Counter

import redis.asyncio

from esper_async.leyline import Admission, Refusal, Refused, Signer, wrap
from esper_async.oona import Bus
from esper_async.oona.streams import WIRE_FIELD, normal_lane
from esper_async.study.bench.fuzzed_messages import NOW, Fuzzer
from tests.oona.conftest import KEY, Inbox, alert, report
from tests.oona.test_bus import consuming

SIGNER = Signer(KEY)
STRANGER = Signer(bytes(32))


def test_each_fuzzed_message_is_refused_for_the_reason_for_which_it_was_made() -> None:
    fuzzer = Fuzzer(7, SIGNER, STRANGER)
    admission = Admission(SIGNER, now=lambda: NOW)
    reasons: set[Refusal | None] = set()
    for number, sample in enumerate(fuzzer.known(3_000)):
        found = None
        try:
            admission.admit(sample.wire, topic="commands", delivery=number)
        except Refused as refused:
            found = refused.reason
        assert found == sample.refusal, sample.wire
        reasons.add(found)
    assert reasons == {None, *Refusal} - {Refusal.OVERLOADED}


def test_damage_that_was_signed_is_refused_or_valid_and_nothing_else() -> None:
    admission = Admission(SIGNER, now=lambda: NOW)
    admitted = 0
    for number, (topic, wire) in enumerate(Fuzzer(8, SIGNER, STRANGER).damaged(3_000)):
        try:
            admission.admit(wire, topic=topic, delivery=number)
        except Refused:
            continue
        admitted += 1
    assert 0 < admitted < 3_000
    assert admitted + admission.refusals.total() == 3_000
    assert {Refusal.MALFORMED, Refusal.INVALID, Refusal.WRONG_VERSION} <= set(admission.refusals)


async def test_a_consumer_among_fuzzed_messages_handles_the_good_ones_and_counts_the_rest(
    bus: Bus, client: redis.asyncio.Redis
) -> None:
    source = random.Random(2)
    good = [wrap(report(number), source="fuzz", signer=SIGNER) for number in range(5)]
    foreign = wrap(report(9), source="fuzz", signer=STRANGER)
    bad = [source.randbytes(source.randrange(300)) for _ in range(200)]
    bad += [good[0][: source.randrange(len(good[0]))] for _ in range(200)]
    bad += [b"", *20 * [foreign]]
    source.shuffle(bad)
    stream = normal_lane("field_reports")
    for wire in [*bad, *good]:
        await client.xadd(stream, {WIRE_FIELD: wire})
    inbox = Inbox()
    async with consuming(bus, "field_reports", "simic", inbox):
        assert await inbox.has(5, 60.0) == [report(number) for number in range(5)]
    assert bus.refusals == Counter(unsigned=401, forged=20)
    assert (await client.xpending(stream, "simic"))["pending"] == 0


async def test_an_entry_without_an_envelope_is_refused_and_counted_a_deleted_one_is_not(
    bus: Bus, client: redis.asyncio.Redis
) -> None:
    stream = normal_lane("alerts")
    await client.xgroup_create(stream, "nissa", id="0", mkstream=True)
    deleted = await client.xadd(stream, {WIRE_FIELD: b"x"})
    await client.xadd(stream, {WIRE_FIELD: b""})
    await client.xadd(stream, {"something": "else"})
    await client.xreadgroup("nissa", "c1", {stream: ">"})  # all three are delivered again
    await client.xdel(stream, deleted)
    await client.xadd(stream, {WIRE_FIELD: b""})
    inbox = Inbox()
    async with consuming(bus, "alerts", "nissa", inbox):
        await bus.publish(alert(1))
        await inbox.has(1)
    assert bus.refusals == {"unsigned": 3}
    assert (await client.xpending(stream, "nissa"))["pending"] == 0
