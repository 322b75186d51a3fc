"""Where a real Prometheus is, for those who start one beside an Esper: tests and drills.

Debian's package `prometheus` brings the server and promtool. `ESPER_PROMETHEUS` names another
folder in which both are.
"""

import os
import shutil
import socket

VARIABLE = "ESPER_PROMETHEUS"


def prometheus_program(name: str) -> str | None:
    """The path of `prometheus` or `promtool`; None where there is none."""
    folder = os.environ.get(VARIABLE)
    return shutil.which(name, path=folder) if folder else shutil.which(name)


def free_port() -> int:
    """A port of loopback on which nobody listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
