"""systemd's notification socket: ready, stopping, and alive for as long as the event loop turns.

The protocol is that of sd_notify(3) and sd_watchdog_enabled(3).
"""

import os
import socket
import time
from collections.abc import Mapping


class Notifier:
    """Tell systemd what it wants to know; without a socket it tells nobody. Thread-safe."""

    def __init__(self, address: str | None, watchdog_s: float | None = None) -> None:
        self._address = address
        self._every_s = watchdog_s / 2 if watchdog_s is not None else None
        self._next = 0.0

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> "Notifier":
        """Read NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID as systemd sets them.

        A watchdog that is meant for another process is not fed.
        """
        env = os.environ if environment is None else environment
        microseconds, pid = env.get("WATCHDOG_USEC", ""), env.get("WATCHDOG_PID", "")
        ours = not pid or pid == str(os.getpid())
        watchdog_s = int(microseconds) / 1e6 if microseconds.isdecimal() and ours else None
        return cls(env.get("NOTIFY_SOCKET"), watchdog_s)

    def ready(self) -> None:
        """Everything has started."""
        self._send("READY=1")

    def stopping(self) -> None:
        """A drain has begun."""
        self._send("STOPPING=1")

    def alive(self) -> None:
        """Feed the watchdog, twice in its interval."""
        now = time.monotonic()
        if self._every_s is not None and now >= self._next:
            self._next = now + self._every_s
            self._send("WATCHDOG=1")

    def _send(self, state: str) -> None:
        if self._address is None:
            return
        address = self._address
        name = "\0" + address[1:] if address.startswith("@") else address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as link:
            try:
                link.sendto(state.encode(), name)
            except OSError:  # systemd is gone or never was: nothing depends on it
                self._address = None
