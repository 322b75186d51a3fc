"""What nobody could handle, or nobody could believe, is kept for people, within bounds."""

import dataclasses
import math

import pytest
import redis.asyncio
from structlog.testing import capture_logs

from esper_async.leyline.envelope import wrap
from esper_async.leyline.signing import Signer
from esper_async.oona import Bus, EmbeddedServer, Spool
from esper_async.oona.connection import Client
from esper_async.oona.dead_letters import DeadLetter, DeadLetters, dead_letter_fields
from esper_async.oona.janitor import Janitor
from esper_async.oona.streams import DEAD_LETTERS, FORGED_LETTERS, WIRE_FIELD, normal_lane
from tests.oona.conftest import FAST, KEY, Inbox, alert, make_bus, report, telemetry, until
from tests.oona.test_bus import consuming, pending

OTHER_KEY = bytes(reversed(KEY))


def with_keys(server: EmbeddedServer, key: bytes, *also: bytes) -> Bus:
    """Return a participant that signs with `key` and accepts others."""
    signer = Signer(key, also_accept=[(older, math.inf) for older in also])
    return Bus(server.url, signer=signer, source="test", settings=FAST)


async def lying(letters: DeadLetters, count: int) -> None:
    """Wait until so many letters lie there."""

    async def enough() -> bool:
        return await letters.count() == count

    await until(enough)


async def test_a_durable_message_under_another_key_is_brought_once_the_key_is_put_right(
    server: EmbeddedServer, spool: Spool, client: Client
) -> None:
    """It was acknowledged, so that nothing of it is in its producer's spool any more."""
    letters = DeadLetters(client)
    async with (
        make_bus(server, spool=spool) as producer,
        with_keys(server, OTHER_KEY) as lacking,
        consuming(lacking, "field_reports", "simic", Inbox()),
    ):
        await producer.publish(report(1))
        await until(lambda: len(spool) == 0)
        await lying(letters, 1)
    assert lacking.refusals == {"forged": 1}
    (letter,) = await letters.list()
    assert (letter.topic, letter.group) == ("field_reports", "simic")
    for words in ("forged", "key", "docs/bus.md", "replay"):
        assert words in letter.reason
    inbox = Inbox()
    async with (
        with_keys(server, OTHER_KEY, KEY) as mended,
        consuming(mended, "field_reports", "simic", inbox),
    ):
        await letters.replay(letter.letter_id)
        assert await inbox.has(1) == [report(1)]
    assert await letters.count() == 0


async def test_noise_without_a_signature_is_only_acknowledged(
    bus: Bus, client: redis.asyncio.Redis
) -> None:
    inbox = Inbox()
    async with consuming(bus, "alerts", "nissa", inbox):
        await client.xadd(normal_lane("alerts"), {WIRE_FIELD: b"noise"})
        await bus.publish(alert(1))
        await inbox.has(1)
    assert bus.refusals == {"unsigned": 1}
    assert await DeadLetters(client).count() == 0


async def test_forged_messages_are_kept_only_for_groups_that_are_owed_them(
    bus: Bus, client: redis.asyncio.Redis
) -> None:
    """A dashboard under another key would fill the letters with what the others have handled."""
    forged = Signer(OTHER_KEY)
    inbox, dashboard = Inbox(), Inbox()
    async with (
        consuming(bus, "telemetry", "nissa", inbox, optional=True),
        consuming(bus, "alerts", "dashboard", dashboard, optional=True),
    ):
        for topic, made in (("telemetry", telemetry(1)), ("alerts", alert(1))):
            wire = wrap(made, source="x", signer=forged)
            await client.xadd(normal_lane(topic), {WIRE_FIELD: wire})
        await bus.publish(telemetry(2))
        await bus.publish(alert(2))
        assert (await inbox.has(1), await dashboard.has(1)) == ([telemetry(2)], [alert(2)])
    assert bus.refusals == {"forged": 2}
    assert await DeadLetters(client).count() == 0
    assert await pending(client, normal_lane("alerts"), "dashboard") == 0


async def test_letters_of_both_kinds_are_one_list_in_order_of_their_death(client: Client) -> None:
    """Even where two of them died in the same millisecond."""
    letters = DeadLetters(client)
    fields = {
        WIRE_FIELD: b"x", "topic": "alerts", "stream": normal_lane("alerts"), "group": "nissa",
        "entry_id": "1-0", "reason": "why", "attempts": 0, "died_at": 1.0,
    }  # fmt: skip
    for entry_id in ("1-0", "1-1", "4-0"):
        await client.xadd("esper:dead_letters", fields, id=entry_id)
    for entry_id in ("1-1", "3-0"):
        await client.xadd(FORGED_LETTERS, fields, id=entry_id)
    expected = ["1-0", "1-1", "forged-1-1", "forged-3-0", "4-0"]
    assert [each.letter_id for each in await letters.list()] == expected
    seen, after = [], "-"
    while page := await letters.list(limit=1, after=after):
        after = page[0].letter_id
        seen.append(after)
    assert seen == expected
    assert await letters.show("forged-1-1") != await letters.show("1-1")
    assert await letters.purge("forged-1-1", "4-0", "9-9") == 2
    assert [each.letter_id for each in await letters.list()] == ["1-0", "1-1", "forged-3-0"]


async def test_the_newest_letters_are_kept_and_what_goes_is_counted_and_said(
    bus: Bus, client: Client
) -> None:
    letters = DeadLetters(client)
    async with consuming(bus, "alerts", "nissa", Inbox(fails=lambda _: True)):
        for number in range(5):
            await bus.publish(alert(number))
        await lying(letters, 5)
    before = await letters.list()
    settings = dataclasses.replace(FAST, dead_letters_kept=3)
    janitor = Janitor(client, settings=settings, metrics=bus.metrics)
    with capture_logs() as logs:
        await janitor.sweep()
        await janitor.sweep()
    assert await letters.list() == before[2:]
    trimmed = bus.metrics.value("esper_oona_dead_letters_trimmed_total", kind="unhandled")
    assert trimmed == 2
    (line,) = [each for each in logs if each["event"] == "dead_letters_trimmed"]
    assert (line["log_level"], line["removed"], line["kept"]) == ("error", 2, 3)
    assert "oona.dead_letters_kept" in line["remedy"]


async def test_a_flood_of_forged_messages_costs_no_other_letter_its_place(
    bus: Bus, client: Client
) -> None:
    letters = DeadLetters(client)
    inbox = Inbox(fails=lambda message: message == alert(0))
    wire = wrap(alert(1), source="x", signer=Signer(OTHER_KEY))
    settings = dataclasses.replace(FAST, dead_letters_kept=10)
    janitor = Janitor(client, settings=settings, metrics=bus.metrics)
    async with consuming(bus, "alerts", "nissa", inbox):
        await bus.publish(alert(0))
        await lying(letters, 1)
        (poison,) = await letters.list()
        for _ in range(50):
            await client.xadd(normal_lane("alerts"), {WIRE_FIELD: wire})
        await lying(letters, 1 + 50)
    await janitor.sweep()
    assert await letters.show(poison.letter_id) == poison
    assert await letters.count() == 1 + 10
    assert bus.metrics.value("esper_oona_dead_letters_trimmed_total", kind="forged") == 40


async def put_letters(client: Client, *, topic: str, count: int, forged: bool = False) -> None:
    """Put letters there as a consumer would, each with a message that can be handled by now."""
    for number in range(count):
        made = alert(number) if topic == "alerts" else report(number)
        fields = dead_letter_fields(
            wrap(made, source="x", signer=Signer(KEY)), topic=topic, stream=normal_lane(topic),
            group="g", entry_id="1-0", reason="why", attempts=3,
        )  # fmt: skip
        await client.xadd(FORGED_LETTERS if forged else DEAD_LETTERS, fields)


async def test_all_letters_of_a_topic_are_listed_replayed_and_purged_at_once(
    bus: Bus, client: Client
) -> None:
    letters = DeadLetters(client)
    await put_letters(client, topic="alerts", count=150)
    await put_letters(client, topic="field_reports", count=3)
    await put_letters(client, topic="alerts", count=2, forged=True)
    assert [each.topic for each in await letters.list(topic="field_reports")] == [
        "field_reports"
    ] * 3
    assert len(await letters.list(topic="alerts", limit=151)) == 151
    inbox = Inbox()
    async with consuming(bus, "alerts", "nissa", inbox):
        assert await letters.replay_all(topic="alerts") == 152
        handled = await inbox.has(152)
    assert handled == [alert(number) for number in (*range(150), *range(2))]
    assert await letters.count() == 3
    assert await letters.purge_all(topic="alerts") == 0
    assert await letters.purge_all(topic="field_reports") == 3
    await put_letters(client, topic="alerts", count=3)
    await put_letters(client, topic="alerts", count=2, forged=True)
    assert await letters.purge_all() == 5
    assert await letters.count() == 0


async def test_a_replay_of_all_does_not_replay_what_dies_again_meanwhile(
    bus: Bus, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would go round for ever."""
    letters = DeadLetters(client)
    await put_letters(client, topic="alerts", count=3)
    whole, pages = DeadLetters._replay, []

    async def meanwhile(box: DeadLetters, page: "list[DeadLetter]") -> None:
        pages.append(len(page))
        await whole(box, page)
        await put_letters(client, topic="alerts", count=3)

    monkeypatch.setattr(DeadLetters, "_replay", meanwhile)
    assert await letters.replay_all() == 3
    assert pages == [3]
    assert await letters.count() == 3
