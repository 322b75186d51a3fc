"""Children: spawned, heard, watched, stopped, and explained; none is ever left behind."""

import asyncio
import signal
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esper_async.runtime.child import Child, ChildSpec, _LinkProtocol
from esper_async.runtime.child_watchdog import active_seconds
from esper_async.runtime.errors import ChildStartError
from esper_async.runtime.processes import children

ROOT = str(Path(__file__).parents[2])
Spawn = Callable[..., Awaitable[tuple[Child, "Inbox"]]]


class Inbox:
    """Messages of a child, awaited by type."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self._news = asyncio.Event()

    def put(self, message: dict[str, Any]) -> None:
        self.messages.append(message)
        self._news.set()

    async def get(self, kind: str) -> dict[str, Any]:
        async with asyncio.timeout(20):
            while True:
                for message in self.messages:
                    if message["type"] == kind:
                        self.messages.remove(message)
                        return message
                self._news.clear()
                await self._news.wait()


@pytest.fixture
async def spawn(tmp_path: Path) -> AsyncIterator[Spawn]:
    children: list[Child] = []

    async def start(target: str, **options: Any) -> tuple[Child, Inbox]:
        inbox = Inbox()
        spec = ChildSpec(
            target,
            f"tests.runtime.child_targets:{target}",
            args=options.pop("args", {}),
            environment={"PYTHONPATH": ROOT},
            log_path=tmp_path / "child.log",
            **options,
        )
        child = Child(spec, on_message=inbox.put)
        await child.start()
        children.append(child)
        return child, inbox

    yield start
    for child in children:
        child.kill()
        await child.wait()


def is_alive(pid: int) -> bool:
    """Whether a process exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_a_child_runs_its_target_in_its_own_group_and_finishes(spawn: Spawn) -> None:
    child, inbox = await spawn("echo", args={"word": "grün"}, nice=7)
    message = await inbox.get("echo")
    assert message == {"type": "echo", "word": "grün", "group": child.pid, "nice": 7}
    outcome = await child.wait()
    assert (outcome.code, outcome.signal, outcome.cause, outcome.ok) == (0, None, "done", True)


async def test_everything_a_child_sent_before_it_ended_is_heard(spawn: Spawn) -> None:
    child, inbox = await spawn("chatter", args={"count": 3_000})
    assert (await child.wait()).ok
    assert [m["number"] for m in inbox.messages] == list(range(3_000))


async def test_requests_arrive_in_order_with_their_fields_and_stop_ends_it(spawn: Spawn) -> None:
    child, inbox = await spawn("obey")
    await inbox.get("up")
    child.request("pause")
    child.request("cull", seed="s-1")
    assert (await inbox.get("got")) == {"type": "got", "name": "pause", "fields": {}}
    assert (await inbox.get("got")) == {"type": "got", "name": "cull", "fields": {"seed": "s-1"}}
    outcome = await child.stop(10)
    assert (outcome.code, outcome.cause) == (0, "stopped")
    assert not child.request("pause"), "a child that has ended takes no request"


async def test_the_freeze_flag_is_seen_without_a_message(spawn: Spawn) -> None:
    child, inbox = await spawn("tell_frozen")
    assert (await inbox.get("frozen"))["on"] is False
    child.freeze(True)
    assert (await inbox.get("frozen"))["on"] is True
    child.freeze(False)
    assert (await inbox.get("frozen"))["on"] is False


async def test_heartbeats_carry_the_step_and_progress(spawn: Spawn) -> None:
    child, _ = await spawn("beat", args={"steps": 4}, heartbeat_timeout_s=30)
    await until(lambda: child.step == 4)
    assert child.progress == {"loss": 0.25}
    assert child.last_heartbeat is not None


async def test_a_hung_child_is_killed_with_its_stacks_in_the_log(
    spawn: Spawn, tmp_path: Path
) -> None:
    child, _ = await spawn("hang", heartbeat_timeout_s=0.4)
    outcome = await child.wait()
    assert (outcome.cause, outcome.signal) == ("hung", signal.SIGKILL)
    assert "no heartbeat" in outcome.reason
    assert "step 1" in outcome.reason
    assert "in hang" in (tmp_path / "child.log").read_text()


async def test_a_stopped_process_is_taken_for_hung(spawn: Spawn) -> None:
    child, _ = await spawn("beat", args={"steps": 1_000}, heartbeat_timeout_s=0.4)
    await until(lambda: child.step is not None)
    child.signal(signal.SIGSTOP)
    assert (await child.wait()).cause == "hung"


async def test_a_slow_child_that_works_is_left_alone(spawn: Spawn) -> None:
    child, _ = await spawn("spin", heartbeat_timeout_s=2.0)
    assert (await child.wait()).cause == "done"


async def test_a_child_that_never_beats_is_ended_at_its_start_deadline(spawn: Spawn) -> None:
    child, _ = await spawn("blocked", heartbeat_timeout_s=0.2, start_timeout_s=0.8)
    outcome = await child.wait()
    assert outcome.cause == "hung"
    assert "first heartbeat" in outcome.reason


async def test_sigterm_interrupts_a_child_that_did_not_heed_the_request(spawn: Spawn) -> None:
    child, inbox = await spawn("blocked")
    await inbox.get("up")
    outcome = await child.stop(1.0)
    assert (outcome.code, outcome.cause) == (143, "stopped")


async def test_a_child_that_ignores_everything_is_killed_with_its_own_children(
    spawn: Spawn,
) -> None:
    child, inbox = await spawn("refuse_to_stop")
    grandchild = (await inbox.get("up"))["grandchild"]
    outcome = await child.stop(0.5)
    assert (outcome.signal, outcome.cause) == (signal.SIGKILL, "stopped")
    assert "did not stop in time" in outcome.reason
    await until(lambda: not is_alive(grandchild))


async def test_cancelling_a_stop_kills_the_child(spawn: Spawn) -> None:
    child, inbox = await spawn("refuse_to_stop")
    await inbox.get("up")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await child.stop(60)
    assert (await child.wait()).signal == signal.SIGKILL


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        ("the loader broke", "error"),
        ("[Errno 28] No space left on device: 'x'", "disk"),
        ("database or disk is full", "disk"),
        ("[Errno 2] No such file or directory: 'x'", "error"),
        ("CUDA error: an illegal memory access was encountered", "cuda"),
        ("[enforce fail] DefaultCPUAllocator: can't allocate memory", "out_of_memory"),
    ],
)
async def test_a_failing_target_is_explained_by_cause(spawn: Spawn, words: str, cause: str) -> None:
    child, _ = await spawn("fail", args={"words": words})
    outcome = await child.wait()
    assert (outcome.code, outcome.cause) == (1, cause)
    assert words in outcome.reason


async def test_an_exit_code_is_passed_on(spawn: Spawn) -> None:
    child, _ = await spawn("leave", args={"code": 4})
    assert (await child.wait()).code == 4


async def test_a_signal_nobody_asked_for_is_named(spawn: Spawn) -> None:
    child, _ = await spawn("be_killed")
    outcome = await child.wait()
    assert (outcome.signal, outcome.cause) == (signal.SIGKILL, "signal")
    assert "SIGKILL" in outcome.reason


async def test_killing_a_parent_with_sigkill_leaves_no_orphan(spawn: Spawn, tmp_path: Path) -> None:
    parent, inbox = await spawn("parent", args={"path": str(tmp_path / "pid")})
    pid = (await inbox.get("up"))["pid"]
    assert is_alive(pid)
    parent.signal(signal.SIGKILL, group=False)
    await until(lambda: not is_alive(pid))


async def test_nor_does_it_leave_what_a_stopped_child_has_started(spawn: Spawn) -> None:
    parent, inbox = await spawn("grandparent")
    pids = (await inbox.get("up"))["pids"]
    assert all(is_alive(pid) for pid in pids)
    parent.signal(signal.SIGKILL, group=False)
    await until(lambda: not any(is_alive(pid) for pid in pids))


async def test_a_child_that_ended_leaves_no_guard_behind(spawn: Spawn) -> None:
    before = set(children())
    child, _ = await spawn("leave", args={"code": 0})
    assert len(set(children()) - before) == 2
    await child.wait()
    assert set(children()) == before


async def test_a_child_knows_neither_the_token_nor_the_service_manager(
    spawn: Spawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ESPER_API_TOKEN", "s3cret")
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/notify")
    child, inbox = await spawn("tell_environment")
    known = (await inbox.get("environment"))["names"]
    assert not {"ESPER_API_TOKEN", "NOTIFY_SOCKET"} & set(known)
    assert (await child.wait()).ok


@pytest.mark.parametrize(
    "words",
    [
        "no json\n",
        "[1, 2]\n",
        '{"type": "heartbeat"}\n',
        '{"type": "heartbeat", "step": 1, "progress": {"done": NaN}}\n',
        '{"type": "heartbeat", "step": 1, "progress": {"done": 1e999}}\n',
        '{"type": "heartbeat", "step": 1, "progress": {"done": [[]]}}\n',
        "[" * 99_999 + "\n",
    ],
)
async def test_a_child_that_talks_nonsense_loses_its_link_and_ends(
    spawn: Spawn, words: str
) -> None:
    child, _ = await spawn("babble", args={"words": words})
    assert not (await child.wait()).ok


@settings(max_examples=300, deadline=None)
@given(st.lists(st.binary(max_size=200), max_size=10))
def test_no_bytes_of_a_child_can_hurt_the_supervisor(chunks: list[bytes]) -> None:
    heard: list[dict[str, Any]] = []
    protocol = _LinkProtocol(heard.append, lambda: None)
    for chunk in chunks:
        protocol.data_received(chunk)
    assert all(isinstance(message, dict) for message in heard)


async def test_a_child_is_not_spawned_off_the_main_thread() -> None:
    failures: list[BaseException] = []

    def in_thread() -> None:
        async def attempt() -> None:
            await Child(ChildSpec("x", "tests.runtime.child_targets:echo")).start()

        try:
            asyncio.run(attempt())
        except ChildStartError as error:
            failures.append(error)

    thread = threading.Thread(target=in_thread)
    thread.start()
    thread.join()
    assert "main thread" in str(failures[0])


async def test_a_child_leaves_no_descriptor_behind(spawn: Spawn) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))  # noqa: ASYNC240
    child, _ = await spawn("leave", args={"code": 0})
    await child.wait()
    await asyncio.sleep(0)
    assert len(list(Path("/proc/self/fd").iterdir())) == before  # noqa: ASYNC240


async def test_a_process_that_waits_for_a_core_counts_as_active(spawn: Spawn) -> None:
    child, _ = await spawn("spin")
    await until(lambda: (active_seconds(child.pid) or 0.0) > 0.2)
    assert active_seconds(None) is None
