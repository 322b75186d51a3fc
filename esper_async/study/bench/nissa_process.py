"""The parent's side of `nissa_child`."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def nissa_process(folder: Path, *, packets_per_s: float) -> Iterator[str]:
    """Serve from another process until the block ends; yield the address.

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
        yield url
        child.stdin.close()
        if child.wait(timeout=30) != 0:
            raise RuntimeError(f"Nissa ended with exit code {child.returncode}")
    finally:
        if child.poll() is None:
            child.kill()
        child.wait()
        child.stdout.close()
