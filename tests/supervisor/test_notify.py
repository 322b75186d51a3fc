"""What a service manager is told, over its own kind of socket."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from esper_async.supervisor.notify import Notifier


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as link:
        link.bind(str(tmp_path / "notify"))
        link.setblocking(False)
        yield link


def heard(manager: socket.socket) -> list[str]:
    words = []
    while True:
        try:
            words.append(manager.recv(100).decode())
        except BlockingIOError:
            return words


def test_ready_alive_and_stopping_are_told_and_the_watchdog_twice_in_its_interval(
    manager: socket.socket,
) -> None:
    environment = {"NOTIFY_SOCKET": manager.getsockname(), "WATCHDOG_USEC": "60000000"}
    notifier = Notifier.from_environment(environment)
    notifier.ready()
    for _ in range(5):
        notifier.alive()
    notifier.stopping()
    assert heard(manager) == ["READY=1", "WATCHDOG=1", "STOPPING=1"]


@pytest.mark.parametrize(
    ("pid", "fed"),
    [(str(os.getpid()), ["WATCHDOG=1"]), ("1", []), ("", ["WATCHDOG=1"])],
    ids=["its own", "another's", "none"],  # a process id would name it anew each time
)
def test_only_a_watchdog_of_this_process_is_fed(
    manager: socket.socket, pid: str, fed: list[str]
) -> None:
    environment = {
        "NOTIFY_SOCKET": manager.getsockname(),
        "WATCHDOG_USEC": "1000000",
        "WATCHDOG_PID": pid,
    }
    Notifier.from_environment(environment).alive()
    assert heard(manager) == fed


def test_without_a_manager_nobody_is_told() -> None:
    notifier = Notifier.from_environment({})
    notifier.ready()
    notifier.alive()


def test_a_manager_that_is_gone_stops_nobody(tmp_path: Path) -> None:
    notifier = Notifier.from_environment({"NOTIFY_SOCKET": str(tmp_path / "nobody")})
    notifier.ready()
    notifier.stopping()
