"""What the child tests run in their children."""

import os
import signal
import subprocess
import sys
import time
from typing import Any

from esper_async.runtime.child_main import ChildLink


def echo(link: ChildLink, *, word: str) -> None:
    """Send back what was given, then finish."""
    link.send({"type": "echo", "word": word, "group": os.getpgrp(), "nice": os.nice(0)})


def obey(link: ChildLink) -> int:
    """Answer each request by name and fields; leave on stop."""
    link.send({"type": "up"})
    while not link.stop_requested:
        for request in link.requests():
            link.send({"type": "got", "name": request, "fields": dict(request.fields)})
        time.sleep(0.005)
    return 0


def tell_frozen(link: ChildLink) -> None:
    """Report the freeze flag whenever it changes, until stopped."""
    last: bool | None = None
    while not link.stop_requested:
        if link.frozen != last:
            last = link.frozen
            link.send({"type": "frozen", "on": last})
        time.sleep(0.002)


def beat(link: ChildLink, *, steps: int) -> None:
    """Take `steps` steps, then wait for a stop."""
    for step in range(1, steps + 1):
        link.heartbeat(step, loss=1.0 / step)
        time.sleep(0.11)
    link.wait_for_stop()


def hang(link: ChildLink) -> None:
    """Take one step and never another."""
    link.heartbeat(1)
    while True:
        time.sleep(60)


def spin(link: ChildLink) -> None:
    """Take one step, work without a heartbeat for a while, then finish."""
    link.heartbeat(1)
    end = time.monotonic() + 3.0
    while time.monotonic() < end:
        pass


def refuse_to_stop(link: ChildLink) -> None:
    """Ignore requests and SIGTERM, with a child of its own."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    link.send({"type": "up", "grandchild": grandchild.pid})
    while True:
        time.sleep(60)


def blocked(link: ChildLink) -> None:
    """Sit in a long sleep that only a signal can interrupt."""
    link.send({"type": "up"})
    time.sleep(600)


def fail(_link: ChildLink, *, words: str) -> Any:
    """Raise."""
    raise RuntimeError(words)


def leave(_link: ChildLink, *, code: int) -> int:
    """Return an exit code."""
    return code


def be_killed(_link: ChildLink) -> None:
    """Die of a signal nobody asked for."""
    os.kill(os.getpid(), signal.SIGKILL)


def chatter(link: ChildLink, *, count: int) -> None:
    """Send many messages and finish at once."""
    for number in range(count):
        link.send({"type": "n", "number": number, "padding": "x" * 500})


def tell_environment(link: ChildLink) -> None:
    """Report the names of the environment's variables."""
    link.send({"type": "environment", "names": sorted(os.environ)})


def babble(link: ChildLink, *, words: str) -> None:
    """Say something to the parent that is no message, and wait to be stopped."""
    link._socket.sendall(words.encode())
    link.wait_for_stop(30)


def family(link: ChildLink) -> None:
    """Start a process of one's own, say which, and do nothing any more."""
    own = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    link.send({"type": "up", "pid": own.pid})
    link.wait_for_stop()


def grandparent(link: ChildLink) -> None:
    """Have a child with a process of its own, stop that child, and wait to be killed."""
    import asyncio

    from esper_async.runtime.child import Child, ChildSpec

    async def raise_them() -> None:
        told: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        spec = ChildSpec("child", "tests.runtime.child_targets:family")
        child = Child(spec, on_message=told.set_result)
        await child.start()
        grandchild = (await told)["pid"]
        child.signal(signal.SIGSTOP, group=False)
        link.send({"type": "up", "pids": [child.pid, grandchild]})
        await asyncio.sleep(600)

    asyncio.run(raise_them())


def parent(link: ChildLink, *, path: str) -> None:
    """Be a parent oneself: start a child, write down its pid, and wait to be killed."""
    import asyncio
    from pathlib import Path

    from esper_async.runtime.child import Child, ChildSpec

    async def raise_one() -> None:
        child = Child(ChildSpec("grandchild", "tests.runtime.child_targets:obey"))
        await child.start()
        Path(path).write_text(str(child.pid))  # noqa: ASYNC240
        link.send({"type": "up", "pid": child.pid})
        await asyncio.sleep(600)

    asyncio.run(raise_one())
