"""The embedded server is a real one: durable, private, and gone when its owner is."""

import asyncio
import sys
from pathlib import Path

import pytest
import redis.asyncio

from esper_async.oona import EmbeddedServer, ServerStartError
from esper_async.oona.connection import connect
from tests.oona.conftest import process_exists, until
from tests.oona.servers import ServerKind


async def test_it_listens_on_a_private_socket_only_and_never_evicts(
    server: EmbeddedServer, client: redis.asyncio.Redis
) -> None:
    settings = await client.config_get("*")
    assert settings["port"] == "0"
    assert settings["appendonly"] == "yes"
    assert settings["appendfsync"] == "everysec"
    assert settings["maxmemory-policy"] == "noeviction"
    assert server.socket.stat().st_mode & 0o777 == 0o600


async def test_it_is_the_server_that_the_test_is_named_for(
    server_kind: ServerKind, client: redis.asyncio.Redis
) -> None:
    told = await client.info("server")
    # Valkey reports the version of Redis that it is compatible with beside its own
    assert told.get("valkey_version", told["redis_version"]).startswith(server_kind.version)


async def test_data_survives_a_stop_and_a_kill(
    server: EmbeddedServer, client: redis.asyncio.Redis
) -> None:
    await client.set("a", "1")
    await server.stop()
    await server.start()
    assert await client.get("a") == b"1"
    server.signal(9)  # type: ignore[arg-type]
    assert await server.wait() == -9
    assert server.pid is None
    await server.start()
    assert await client.get("a") == b"1"


async def test_a_directory_too_long_for_a_socket_gets_a_short_private_one(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    server = EmbeddedServer(deep)
    url = await server.start()
    short = server.socket.parent
    client = connect(url, timeout_s=2.0)
    try:
        assert await client.ping()
        assert short.stat().st_mode & 0o777 == 0o700
        assert deep.joinpath("appendonlydir").exists()
    finally:
        await client.aclose()
        await server.stop()
    assert not short.exists()


async def test_a_path_with_spaces_and_quotes_works(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path / 'a "b" c')
    await server.start()
    await server.stop()


async def test_two_servers_cannot_share_a_directory(server: EmbeddedServer) -> None:
    other = EmbeddedServer(server.socket.parent, start_timeout_s=0.05)
    with pytest.raises(ServerStartError, match="another server still runs"):
        await other.start()
    assert server.pid is not None


async def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(ServerStartError, match="cannot run"):
        await EmbeddedServer(tmp_path, binary=tmp_path / "missing").start()
    with pytest.raises(ServerStartError, match="ended with code 1"):
        await EmbeddedServer(tmp_path, fsync="sometimes").start()


async def test_it_ends_when_its_owner_is_killed(tmp_path: Path) -> None:
    script = (
        "import asyncio, sys\nfrom pathlib import Path\n"
        "from esper_async.oona.server import EmbeddedServer\n"
        "async def main():\n"
        f"    server = EmbeddedServer(Path({str(tmp_path)!r}))\n"
        "    await server.start()\n    print(server.pid, flush=True)\n    await server.wait()\n"
        "asyncio.run(main())\n"
    )
    owner = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, stdout=asyncio.subprocess.PIPE
    )
    assert owner.stdout is not None
    pid = int(await owner.stdout.readline())
    assert process_exists(pid)
    owner.kill()
    await owner.wait()
    await until(lambda: not process_exists(pid))
