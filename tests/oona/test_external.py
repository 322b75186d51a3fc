"""A Redis of somebody else's: with a user and a password, over TLS, behind Sentinels."""

import asyncio
import contextlib
import re
import shutil
import signal
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import redis.asyncio
from hypothesis import given, settings
from hypothesis import strategies as st

from esper_async.leyline.signing import Signer
from esper_async.oona import Bus, BusUnavailable, EmbeddedServer, Spool
from esper_async.oona.address import sentinel_address, without_password
from esper_async.oona.connection import connect
from esper_async.oona.dead_letters import DeadLetters
from esper_async.oona.errors import FAULTS
from esper_async.oona.janitor import Janitor
from esper_async.oona.metrics import BusMetrics
from esper_async.oona.server import find_binary
from esper_async.runtime.errors import BreakerOpen
from tests.oona.conftest import FAST, KEY, Inbox, alert, report, until
from tests.oona.test_bus import consuming


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.asynccontextmanager
async def running(
    folder: Path, *words: str, first: tuple[str, ...] = ()
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a server of the embedded one's program, as an operator would with arguments."""
    folder.mkdir(exist_ok=True)  # noqa: ASYNC240 - nothing else runs in this loop yet
    process = await asyncio.create_subprocess_exec(
        str(find_binary()), *first, "--dir", str(folder), "--save", "", *words,
        stdout=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def answers(url: str) -> None:
    client = connect(url, timeout_s=2.0)

    async def ping() -> bool:
        try:
            return bool(await client.ping())
        except FAULTS:
            return False

    try:
        await until(ping, 30.0)
    finally:
        await client.aclose()


def make_bus(url: str, spool: Spool | None = None) -> Bus:
    return Bus(url, signer=Signer(KEY), source="test", settings=FAST, spool=spool)


async def carries_a_message(url: str) -> None:
    inbox = Inbox()
    async with make_bus(url) as bus, consuming(bus, "alerts", "nissa", inbox):
        await bus.publish(alert(1))
        assert await inbox.has(1, 30.0) == [alert(1)]


async def test_a_user_and_a_password_are_given_and_wrong_ones_are_refused(tmp_path: Path) -> None:
    port = free_port()
    user = ("--user", "esper", "on", ">a%b", "~esper:*", "+@all", "--user", "default", "off")
    async with running(tmp_path / "r", "--port", str(port), *user):
        url = f"redis://esper:a%25b@127.0.0.1:{port}/0"
        await answers(url)
        await carries_a_message(url)
        async with make_bus(f"redis://esper:wrong@127.0.0.1:{port}/0") as bus:
            with pytest.raises(BusUnavailable, match="invalid username-password"):
                await bus.publish(alert(1))


def commands_in_the_docs() -> list[str]:
    """Return what docs/bus.md says that the user must be allowed, as `ACL SETUSER` takes it."""
    page = (Path(__file__).parents[2] / "docs" / "bus.md").read_text()
    told = re.search(r"The user needs the keys `esper:\*` and these commands: `([^`]+)`", page)
    assert told is not None
    return [f"+{word.lower()}" for word in told[1].split()]


async def test_the_commands_that_the_docs_name_are_enough_for_everything_the_bus_does(
    tmp_path: Path, spool: Spool
) -> None:
    port = free_port()
    user = ("--user", "esper", "on", ">secret", "~esper:*", "-@all", *commands_in_the_docs())
    default = ("--user", "default", "on", ">root", "~*", "+@all")
    async with running(tmp_path / "r", "--port", str(port), *user, *default):
        url = f"redis://esper:secret@127.0.0.1:{port}/0"
        await answers(url)
        client = connect(url, timeout_s=2.0)
        root = redis.asyncio.Redis.from_url(f"redis://:root@127.0.0.1:{port}/0")
        metrics = BusMetrics()
        poisoned = Inbox(fails=lambda message: True)
        reports = Inbox()
        async with (
            make_bus(url, spool) as bus,
            consuming(bus, "field_reports", "simic", reports),
            consuming(bus, "alerts", "nissa", poisoned),
        ):
            await bus.publish(report(1))
            assert await reports.has(1, 30.0) == [report(1)]
            await until(lambda: len(spool) == 0, 30.0)
            await bus.publish(alert(1))
            letters = DeadLetters(client)
            await until(letters.count, 30.0)
            (letter,) = await letters.list()
            await letters.replay(letter.letter_id)
            await until(letters.count, 30.0)
            await letters.purge()
            await Janitor(client, settings=FAST, metrics=metrics).sweep()
            await until(lambda: _was_called(root, "xautoclaim"), 30.0)
        refused = await root.acl_log()
        await root.aclose()
        await client.aclose()
    assert [(entry["reason"], entry["object"]) for entry in refused] == []


async def _was_called(root: redis.asyncio.Redis, command: str) -> bool:
    return f"cmdstat_{command}" in await root.info("commandstats")


def _make_certificate(key: Path, certificate: Path) -> None:
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
         "-keyout", str(key), "-out", str(certificate), "-subj", "/CN=127.0.0.1",
         "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True, capture_output=True,
    )  # fmt: skip


@pytest.mark.skipif(not shutil.which("openssl"), reason="needs openssl: apt-get install openssl")
async def test_tls_is_spoken_and_a_stranger_is_not_trusted(
    server: EmbeddedServer, tmp_path: Path
) -> None:
    """The embedded server's program has no TLS: something in front of it has, as with a proxy."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    _make_certificate(key, certificate)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind, before = await asyncio.open_unix_connection(server.socket)
        await asyncio.gather(_pump(reader, before), _pump(behind, writer))

    async with await asyncio.start_server(relay, "127.0.0.1", 0, ssl=context) as front:
        port = front.sockets[0].getsockname()[1]
        url = f"rediss://127.0.0.1:{port}/0"
        await carries_a_message(f"{url}?ssl_ca_certs={certificate}")
        async with make_bus(url) as bus:
            with pytest.raises(BusUnavailable, match=r"(?i)certificate"):
                await bus.publish(alert(1))


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError, ssl.SSLError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    writer.close()


async def test_after_a_failover_behind_sentinel_the_durable_class_is_whole(
    tmp_path: Path, spool: Spool
) -> None:
    """The replica is frozen before the last messages, so that the failover loses them."""
    first, second, third = free_port(), free_port(), free_port()
    (tmp_path / "s").mkdir()
    configuration = tmp_path / "s" / "sentinel.conf"
    configuration.write_text(
        f"port {third}\nsentinel monitor esper 127.0.0.1 {first} 1\n"
        "sentinel down-after-milliseconds esper 400\nsentinel failover-timeout esper 3000\n"
    )
    url = f"redis+sentinel://127.0.0.1:{third}/esper/0"
    replica_url = f"redis://127.0.0.1:{second}/0"
    async with (
        running(tmp_path / "a", "--port", str(first)) as primary,
        running(
            tmp_path / "b", "--port", str(second), "--replicaof", "127.0.0.1", str(first)
        ) as follower,
    ):
        replica = redis.asyncio.Redis.from_url(replica_url)
        await answers(f"redis://127.0.0.1:{first}/0")
        await until(lambda: _follows(replica), 30.0)
        async with running(tmp_path / "s", first=(str(configuration), "--sentinel")):
            await answers(url)
            async with make_bus(url, spool) as bus:
                await bus.publish_many([report(number) for number in range(20)])
                await until(lambda: _has(replica, 20), 30.0)
                follower.send_signal(signal.SIGSTOP)
                await bus.publish_many([report(number) for number in range(20, 40)])
                await until(lambda: _carried(bus, 40), 30.0)
                primary.kill()
                await primary.wait()
                follower.send_signal(signal.SIGCONT)
                inbox = Inbox()
                async with consuming(bus, "field_reports", "simic", inbox):
                    await until(lambda: _all(inbox, 40), 60.0)
                    await until(lambda: len(spool) == 0, 30.0)
                await until(lambda: _published(bus), 30.0)
        await replica.aclose()


async def _follows(replica: redis.asyncio.Redis) -> bool:
    try:
        told = await replica.info("replication")
    except FAULTS:
        return False
    return bool(told.get("master_link_status") == "up")


def _carried(bus: Bus, count: int) -> bool:
    return bus.metrics.value("esper_oona_published_total", topic="field_reports") >= count


async def _has(replica: redis.asyncio.Redis, count: int) -> bool:
    return int(await replica.xlen("esper:topic:field_reports")) >= count


def _all(inbox: Inbox, count: int) -> bool:
    return len({message.report_id for message in inbox.messages}) == count  # type: ignore[attr-defined]


async def _published(bus: Bus) -> bool:
    try:
        return bool(await bus.publish(alert(1)))
    except (BusUnavailable, BreakerOpen):
        return False


def test_a_sentinel_url_says_who_to_ask_for_what_and_how() -> None:
    told = sentinel_address(
        "rediss+sentinel://u:p%40@a:1,b/esper/3?ssl_ca_certs=/ca&sentinel_password=s"
    )
    assert told is not None
    assert told.sentinels == (("a", 1), ("b", 26_379))
    assert told.name == "esper"
    assert told.server_options == {
        "username": "u", "password": "p@", "db": 3, "ssl_ca_certs": "/ca", "ssl": True,
    }  # fmt: skip
    assert told.sentinel_options == {"password": "s", "ssl": True, "ssl_ca_certs": "/ca"}
    assert sentinel_address("redis://a/0") is None


@pytest.mark.parametrize("url", ["redis+sentinel://a:1", "redis+sentinel:///esper/0"])
def test_a_sentinel_url_without_a_name_or_a_host_says_what_it_should_be(url: str) -> None:
    with pytest.raises(ValueError, match="sentinel monitor NAME"):
        sentinel_address(url)


def test_a_password_is_never_shown() -> None:
    assert without_password("redis://u:secret@h:1/0?x=secret") == "redis://u:***@h:1/0"
    assert without_password("unix:///a/b") == "unix:///a/b"


@pytest.mark.parametrize("rest", ["/b@h:1/0", "?b@h:1", "#b@h", "@[h", "]@h", "\u2100@h"])
def test_a_password_that_breaks_its_address_is_not_shown_either(rest: str) -> None:
    assert without_password(f"redis://u:s3cr3t{rest}") == "redis://***"


@settings(max_examples=500, deadline=None)
@given(
    st.sampled_from(["redis://", "rediss://", "redis+sentinel://", "unix://", ""]),
    st.text("redis://+sentl:@[]%?#1,9é\0 =&", max_size=25),
)
def test_any_address_is_understood_or_refused_and_shows_no_password(scheme: str, rest: str) -> None:
    assert "s3cr3t" not in without_password(f"{scheme}u:s3cr3t{rest}@h{rest}")
    with contextlib.suppress(ValueError):
        sentinel_address(scheme + rest)


@pytest.mark.parametrize(
    "url", ["redis://u:s3/cr3t@h:1/0", "redis://u:s3cr3t@h:port/0", "redis+sentinel://u:s3cr3t@h"]
)
def test_an_address_that_is_none_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ValueError, match=r"oona\.redis_url.*%2F") as caught:
        connect(url, timeout_s=1.0)
    assert "s3" not in str(caught.value)
