"""Stand-ins for the training process: they keep its contract with the supervisor, and no more."""

import errno
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from esper_async.runtime.child_main import ChildLink
from esper_async.runtime.files import write_json_atomically


def train(link: ChildLink, *, run_dir: str, state_dir: str, redis_url: str, key_path: str) -> int:
    """Act on the run's `options.act`; count the lives in the folder."""
    folder = Path(run_dir)
    config = json.loads((folder / "run.json").read_text())["config"]
    act = config["run"]["options"]["act"]
    lives = folder / "lives"
    life = int(lives.read_text()) + 1 if lives.exists() else 1
    lives.write_text(str(life))
    assert Path(state_dir).is_dir()
    assert redis_url.startswith("unix:")
    assert key_path.endswith("leyline.key")
    return _ACTS[act](link, folder, life)


def _end(folder: Path, state: str, **further: Any) -> int:
    write_json_atomically(folder / "result.json", {"state": state, "error": None, **further})
    return 0


def _complete(_link: ChildLink, folder: Path, _life: int) -> int:
    rows = [
        {"name": "this run", "metric": "accuracy", "value": 0.91, "low": 0.88, "high": 0.94,
         "n": 360, "parameters": 1200, "wall_s": 3.0, "macs": 10},
        {"name": "the same host", "metric": "accuracy", "value": 0.85, "low": 0.81, "high": 0.88,
         "n": 360, "parameters": 800, "wall_s": 1.0, "macs": 5},
    ]  # fmt: skip
    return _end(folder, "completed", comparison=rows)


def _refuse(_link: ChildLink, folder: Path, _life: int) -> int:
    _end(folder, "failed")
    write_json_atomically(
        folder / "result.json", {"state": "failed", "error": "the loader is empty"}
    )
    return 4


def _crash_once(link: ChildLink, folder: Path, life: int) -> int:
    if life == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return _complete(link, folder, life)


def _crash_always(_link: ChildLink, _folder: Path, _life: int) -> int:
    raise RuntimeError("the task is broken")


def _no_room_at_first(link: ChildLink, folder: Path, life: int) -> int:
    if life <= 3:
        raise OSError(errno.ENOSPC, "No space left on device")
    return _complete(link, folder, life)


def _until_stopped(link: ChildLink, folder: Path, _life: int) -> int:
    """Train for ever; note the requests; leave a checkpoint when drained, a result when ended."""
    final = False
    step = 0
    with (folder / "requests").open("a") as requests:
        while not link.stop_requested:
            step += 1
            link.heartbeat(step, frozen=link.frozen)
            for request in link.requests():
                requests.write(f"{request} {json.dumps(dict(request.fields), sort_keys=True)}\n")
                requests.flush()
            time.sleep(0.005)
        for request in link.requests():
            final = final or bool(request == "stop" and request.fields.get("final"))
    (folder / "checkpoints" / "last").write_text(str(step))
    return _end(folder, "stopped") if final else 0


_ACTS = {
    "complete": _complete,
    "refuse": _refuse,
    "crash_once": _crash_once,
    "crash_always": _crash_always,
    "no_room_at_first": _no_room_at_first,
    "until_stopped": _until_stopped,
}
