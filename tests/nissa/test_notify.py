"""Telling people: real HTTP and SMTP peers take what is sent, refuse it, or are away."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email.message import Message
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from aiosmtpd.controller import Controller

from esper_async.nissa.alerts import Alert
from esper_async.nissa.metrics import NissaMetrics
from esper_async.nissa.notify.channels import channels_of
from esper_async.nissa.notify.dispatch import Dispatcher
from esper_async.nissa.notify.outbox import Outbox
from esper_async.nissa.notify.settings import NotifyOptions
from esper_async.runtime.clock import FakeClock
from esper_async.runtime.metrics import Registry


def alert(number: int = 1, *, name: str = "disk_low", **more: Any) -> Alert:
    given: dict[str, Any] = {
        "level": "error", "labels": {"run": f"r{number}"}, "summary": f"Fault {number}.",
        "value": 0.04, "threshold": 0.05, "started_at": 1.7e9,
        "routes": ("pager", "chat", "mail"), **more,
    }  # fmt: skip
    return Alert(id=f"alert{number}", name=name, **given)


@dataclass
class Peer:
    """A real HTTP server that keeps what it was posted; `answers` are given first."""

    url: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    answers: list[tuple[int, dict[str, str]]] = field(default_factory=list)

    async def take(self, request: web.Request) -> web.Response:
        status, headers = self.answers.pop(0) if self.answers else (202, {})
        if status < 300:
            self.bodies.append(await request.json())
        return web.Response(status=status, text="said so", headers=headers)


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    made = Peer()
    app = web.Application()
    app.router.add_post("/hook", made.take)
    async with TestServer(app) as server:
        made.url = str(server.make_url("/hook"))
        yield made


class Mailbox:
    """What a real SMTP server does with a mail."""

    def __init__(self) -> None:
        self.mails: list[Message] = []
        self.refusal = ""

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802
        import email

        if self.refusal:
            return self.refusal
        self.mails.append(email.message_from_bytes(envelope.content))
        return "250 OK"


@pytest.fixture
def smtp() -> Iterator[tuple[str, Mailbox]]:
    box = Mailbox()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    controller = Controller(box, hostname="127.0.0.1", port=port)
    controller.start()
    yield f"smtp://127.0.0.1:{port}", box
    controller.stop()


@dataclass
class Post:
    dispatcher: Dispatcher
    outbox: Outbox
    clock: FakeClock

    async def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)
        await self.dispatcher.deliver()

    def states(self) -> list[tuple[str, str]]:
        return [(notice.channel, notice.state) for notice in self.outbox.newest()]


@asynccontextmanager
async def post_office(tmp_path: Path, **options: Any) -> AsyncIterator[Post]:
    clock, outbox = FakeClock(), Outbox(tmp_path / "outbox.sqlite")
    outbox.open()
    chosen = NotifyOptions(page_url="http://esper.test/", **options)
    dispatcher = Dispatcher(
        channels_of(chosen), outbox, options=chosen, metrics=NissaMetrics(Registry()), clock=clock
    )
    dispatcher.load()
    yield Post(dispatcher, outbox, clock)
    outbox.close()


async def test_each_of_the_four_channels_is_told_of_beginning_and_end(
    tmp_path: Path, peer: Peer, smtp: tuple[str, Mailbox]
) -> None:
    url, box = smtp
    channels = {
        "webhook_url": peer.url, "slack_url": peer.url, "pagerduty_key": "key",
        "pagerduty_url": peer.url, "smtp_url": url, "mail_to": "ada@esper.test",
    }  # fmt: skip
    async with post_office(tmp_path, **channels) as post:
        told = alert()
        post.dispatcher.look([told])
        await post.pass_time(10.0)
        told.state, told.ended_at = "resolved", 1.7e9 + 60
        post.dispatcher.note(told)
        await post.pass_time(10.0)
        assert sorted(post.states()) == sorted(
            2 * [("webhook", "sent"), ("slack", "sent"), ("pagerduty", "sent"), ("smtp", "sent")]
        )
    hooks = [body for body in peer.bodies if body.get("version") == "4"]
    assert [body["status"] for body in hooks] == ["firing", "resolved"]
    assert hooks[0]["alerts"][0]["labels"] == {
        "alertname": "disk_low", "severity": "error", "run": "r1",
    }  # fmt: skip
    assert hooks[1]["alerts"][0]["endsAt"] == "2023-11-14T22:14:20Z"
    pages = [body for body in peer.bodies if "routing_key" in body]
    assert [page["event_action"] for page in pages] == ["trigger", "resolve"]
    assert {page["dedup_key"] for page in pages} == {"esper/alert1"}
    chats = [body["text"] for body in peer.bodies if "text" in body]
    assert "disk_low is firing: Fault 1." in chats[0]
    assert "resolved" in chats[1]
    assert [mail["Subject"] for mail in box.mails] == [
        "[esper] disk_low is firing: Fault 1.", "[esper] disk_low is resolved: Fault 1.",
    ]  # fmt: skip
    assert "http://esper.test/" in str(box.mails[0].get_payload())


async def test_only_those_are_told_whom_the_alert_names(tmp_path: Path, peer: Peer) -> None:
    async with post_office(
        tmp_path, slack_url=peer.url, pagerduty_key="key", pagerduty_url=peer.url
    ) as post:
        post.dispatcher.look([alert(routes=("chat",))])
        await post.pass_time(10.0)
        assert post.states() == [("slack", "sent")]


async def test_news_of_one_name_within_the_group_time_is_one_message(
    tmp_path: Path, peer: Peer
) -> None:
    async with post_office(tmp_path, webhook_url=peer.url) as post:
        post.dispatcher.look([alert(1)])
        await post.pass_time(5.0)
        assert peer.bodies == []
        post.dispatcher.look([alert(1), alert(2), alert(3, name="breaker_open")])
        await post.pass_time(5.0)
        await post.pass_time(5.0)
        groups = [[each["fingerprint"] for each in body["alerts"]] for body in peer.bodies]
        assert groups == [["alert1", "alert2"], ["alert3"]]


async def test_what_ended_before_anybody_was_told_is_not_mentioned(
    tmp_path: Path, peer: Peer
) -> None:
    async with post_office(tmp_path, webhook_url=peer.url) as post:
        told = alert()
        post.dispatcher.look([told])
        told.state = "resolved"
        post.dispatcher.note(told)
        await post.pass_time(10.0)
        assert (peer.bodies, post.states()) == ([], [])


async def test_a_silenced_alert_is_told_when_its_silence_ends(tmp_path: Path, peer: Peer) -> None:
    async with post_office(tmp_path, webhook_url=peer.url) as post:
        told = alert(silenced_until=post.clock.time() + 60)
        post.dispatcher.look([told])
        await post.pass_time(60.0)
        assert peer.bodies == []
        post.dispatcher.look([told])
        await post.pass_time(10.0)
        assert len(peer.bodies) == 1


async def test_it_is_repeated_until_somebody_has_seen_it(tmp_path: Path, peer: Peer) -> None:
    async with post_office(tmp_path, webhook_url=peer.url, repeat_every_s=100.0) as post:
        told = alert()
        for _ in range(4):
            post.dispatcher.look([told])
            await post.pass_time(50.0)
        assert len(peer.bodies) == 2
        told.state, told.acknowledged_by = "acknowledged", "Ada"
        post.dispatcher.note(told)
        for _ in range(5):
            post.dispatcher.look([told])
            await post.pass_time(50.0)
        assert len(peer.bodies) == 3
        assert peer.bodies[-1]["alerts"][0]["annotations"]["acknowledged_by"] == "Ada"


async def test_a_failing_channel_is_tried_again_with_growing_pauses_and_holds_up_no_other(
    tmp_path: Path, peer: Peer
) -> None:
    peer.answers = [(500, {}), (429, {"Retry-After": "40"})]
    async with post_office(tmp_path, slack_url=peer.url, webhook_url="http://127.0.0.1:9/") as post:
        post.dispatcher.look([alert()])
        await post.pass_time(10.0)
        await post.pass_time(4.9)
        assert len(peer.answers) == 1
        await post.pass_time(0.1)
        await post.pass_time(39.0)
        assert peer.bodies == []
        await post.pass_time(1.0)
        assert len(peer.bodies) == 1
        slack, webhook = post.outbox.newest()
        assert (slack.state, slack.attempts) == ("sent", 3)
        assert webhook.state == "waiting"
        assert "could not be reached" in str(webhook.reason)


async def test_a_message_that_nobody_takes_is_set_aside_with_its_reason_and_can_be_revived(
    tmp_path: Path, peer: Peer
) -> None:
    peer.answers = [(403, {})]
    async with post_office(tmp_path, webhook_url=peer.url) as post:
        post.dispatcher.look([alert()])
        await post.pass_time(10.0)
        [dead] = post.outbox.newest("dead")
        assert dead.reason is not None
        assert dead.reason.endswith("answered 403: said so")
        assert "hook" not in dead.reason
        assert post.outbox.replay(dead.id, post.clock.time())
        await post.pass_time(0.0)
        assert post.states() == [("webhook", "sent")]
        assert not post.outbox.replay(dead.id, post.clock.time())


async def test_after_all_attempts_a_message_is_dead(tmp_path: Path, peer: Peer) -> None:
    peer.answers = [(503, {})] * 3
    async with post_office(tmp_path, webhook_url=peer.url, attempts=3) as post:
        post.dispatcher.look([alert()])
        for _ in range(4):
            await post.pass_time(100.0)
        assert post.states() == [("webhook", "dead")]


async def test_a_mail_server_that_refuses_for_good_and_one_that_is_busy(
    tmp_path: Path, smtp: tuple[str, Mailbox]
) -> None:
    url, box = smtp
    async with post_office(tmp_path, smtp_url=url, mail_to="ada@esper.test") as post:
        box.refusal = "451 later"
        post.dispatcher.look([alert()])
        await post.pass_time(10.0)
        assert post.states() == [("smtp", "waiting")]
        box.refusal = "554 never"
        await post.pass_time(10.0)
        [dead] = post.outbox.newest("dead")
        assert "554" in str(dead.reason)


async def test_messages_and_who_was_told_outlive_a_restart(tmp_path: Path, peer: Peer) -> None:
    told = alert()
    async with post_office(tmp_path, webhook_url="http://127.0.0.1:9/") as post:
        post.dispatcher.look([told])
        await post.pass_time(10.0)
    async with post_office(tmp_path, webhook_url=peer.url) as post:
        await post.pass_time(3_600.0)
        assert len(peer.bodies) == 1
        post.dispatcher.look([told])
        await post.pass_time(10.0)
        assert len(peer.bodies) == 1
        told.state, told.ended_at = "resolved", 1.7e9
        post.dispatcher.note(told)
        await post.pass_time(10.0)
        assert [body["status"] for body in peer.bodies] == ["firing", "resolved"]


async def test_words_of_others_cannot_add_a_header_or_call_a_whole_channel(
    tmp_path: Path, peer: Peer, smtp: tuple[str, Mailbox]
) -> None:
    url, box = smtp
    async with post_office(
        tmp_path, slack_url=peer.url, smtp_url=url, mail_to="ada@esper.test"
    ) as post:
        post.dispatcher.look([alert(summary="<!channel>\r\nBcc: eve@esper.test")])
        await post.pass_time(10.0)
    assert "<!channel>" not in peer.bodies[0]["text"]
    assert box.mails[0]["Bcc"] is None


async def test_dead_messages_are_listed_replayed_and_purged_over_http(
    world: Any, client: Any
) -> None:
    from tests.nissa.conftest import BEARER

    outbox = world.context.outbox
    for number in (1, 2):
        outbox.put("webhook", [alert(number).to_json()], 1.0)
        outbox.failed(number, "no", due_at=None, now=2.0)
    async with client.get("/api/notifications?state=dead") as response:
        found = json.loads(await response.text())
    assert [notice["id"] for notice in found] == [2, 1]
    async with client.post("/api/notifications/1/replay", headers=BEARER) as response:
        assert response.status == 202
    async with client.delete("/api/notifications/2", headers=BEARER) as response:
        assert response.status == 204
    async with client.delete("/api/notifications/2", headers=BEARER) as response:
        assert response.status == 404
    assert [(notice.id, notice.state) for notice in outbox.newest()] == [(1, "waiting")]
    await asyncio.sleep(0)
