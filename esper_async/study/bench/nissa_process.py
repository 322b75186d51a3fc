"""The parent's side of `nissa_child`."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(slots=True)
class NissaProcess:
    """A served Nissa; `told` is what it said at its end."""

    url: str
    told: dict[str, Any] = field(default_factory=dict)


@contextmanager
def nissa_process(folder: Path, *, packets_per_s: float = 0.0) -> Iterator[NissaProcess]:
    """Serve from another process until the block ends.

    Raises:
        RuntimeError: it did not come up, or did not end as it should.
    """
    command = [sys.executable, "-m", "esper_async.study.bench.nissa_child", str(folder)]
    child = subprocess.Popen(
        [*command, str(packets_per_s)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        url = child.stdout.readline().strip()
        if not url:
            raise RuntimeError(f"Nissa did not come up: exit code {child.wait()}")
        served = NissaProcess(url)
        yield served
        child.stdin.close()
        served.told = json.loads(child.stdout.read())
        if child.wait(timeout=30) != 0:
            raise RuntimeError(f"Nissa ended with exit code {child.returncode}")
    finally:
        if child.poll() is None:
            child.kill()
        child.wait()
        child.stdout.close()
