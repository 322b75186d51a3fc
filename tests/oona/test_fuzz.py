"""Whatever bytes come, a consumer refuses them, counts why, grows no larger, and goes on."""

import gc
import random
import tracemalloc
from collections import Counter

import pytest
import redis.asyncio

from esper_async import leyline
from esper_async.leyline import Admission, Refusal, Refused, Signer, wrap
from esper_async.oona import Bus
from esper_async.oona.streams import WIRE_FIELD, normal_lane
from tests.leyline import examples
from tests.oona.conftest import KEY, Inbox, alert, report
from tests.oona.test_bus import consuming

SIGNER = Signer(KEY)
TRAILER = b"\x7a\x20"


def signed(body: bytes) -> bytes:
    """Sign anything, as somebody who holds the key and has a fault would."""
    return body + TRAILER + SIGNER.sign(body)


def fuzzed(source: random.Random, good: list[bytes]) -> bytes:
    """Return noise, a damaged message, or a damaged one that is signed again."""
    kind = source.randrange(5)
    if kind == 0:
        return source.randbytes(source.randrange(300))
    wire = bytearray(source.choice(good))
    if kind == 1:
        return bytes(wire[: source.randrange(len(wire))])
    body = wire if kind == 2 else wire[:-34]
    for _ in range(source.randrange(1, 6)):
        body[source.randrange(len(body))] = source.randrange(256)
    if kind == 4:
        start = source.randrange(len(body))
        del body[start : start + source.randrange(1, 20)]
    return bytes(body) if kind == 2 else signed(bytes(body))


def test_fifty_thousand_fuzzed_messages_are_refused_or_valid_and_memory_stays_flat() -> None:
    source = random.Random(1)
    good = [wrap(message, source="fuzz", signer=SIGNER) for message in examples.payloads().values()]
    admission = Admission(SIGNER, now=lambda: 1_790_000_001.0)
    topics = list(leyline.TOPICS)
    seen: Counter[str] = Counter()
    sizes = []
    tracemalloc.start()
    try:
        for number in range(50_000):
            wire = fuzzed(source, good)
            try:
                admission.admit(wire, topic=source.choice(topics), delivery=(number,))
            except Refused as refused:
                seen[refused.reason] += 1
            else:
                seen["admitted"] += 1
            if number % 10_000 == 9_999:
                gc.collect()
                sizes.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert seen.total() == 50_000
    assert sum(admission.refusals.values()) == 50_000 - seen["admitted"]
    assert {Refusal.UNSIGNED, Refusal.FORGED, Refusal.MALFORMED, Refusal.WRONG_TOPIC} <= set(seen)
    assert sizes[-1] - sizes[0] < 500_000


async def test_a_consumer_among_fuzzed_messages_handles_the_good_ones_and_counts_the_rest(
    bus: Bus, client: redis.asyncio.Redis
) -> None:
    source = random.Random(2)
    good = [wrap(report(number), source="fuzz", signer=SIGNER) for number in range(5)]
    noise = [fuzzed(source, good[:1])[:-1] for _ in range(500)]  # cut: none can be valid
    stream = normal_lane("field_reports")
    for place, wire in enumerate([*noise, *good]):
        await client.xadd(stream, {WIRE_FIELD: wire})
        if place == 250:
            await client.xadd(stream, {"something": "else"})
    inbox = Inbox()
    async with consuming(bus, "field_reports", "simic", inbox):
        assert await inbox.has(5, 60.0) == [report(number) for number in range(5)]
    assert sum(bus.refusals.values()) == 501
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


@pytest.mark.parametrize("reason", ["unsigned", "forged"])
def test_the_fuzz_would_notice_a_signature_that_is_not_looked_at(
    monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    """The mutant: with verifying gone, damaged messages are no longer refused as forged."""
    monkeypatch.setattr(Signer, "verify", lambda *_: True)
    source = random.Random(1)
    admission = Admission(SIGNER, now=lambda: 1_790_000_001.0)
    good = [wrap(report(1), source="fuzz", signer=SIGNER)]
    for number in range(1_000):
        try:
            admission.admit(fuzzed(source, good), topic="field_reports", delivery=(number,))
        except Refused:
            continue
    assert (Refusal(reason) in admission.refusals) is (reason == "unsigned")
