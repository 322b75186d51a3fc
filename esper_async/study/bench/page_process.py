"""The parent's side of `page_child`."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class PageProcess:
    """A served Nissa whose run goes on by as much as it is told to."""

    def __init__(self, child: "subprocess.Popen[str]") -> None:
        self._child = child
        self.url = self._line()

    def tell(self, hours: float) -> int:
        """Have the run go on for so many hours, one boundary at least; return where it is then.

        Blocks until all of it was told. Raises RuntimeError when the process ends instead.
        """
        assert self._child.stdin is not None
        self._child.stdin.write(f"{hours}\n")
        self._child.stdin.flush()
        return int(self._line())

    def _line(self) -> str:
        assert self._child.stdout is not None
        line = self._child.stdout.readline().strip()
        if not line:
            raise RuntimeError(f"the page's server ended with exit code {self._child.wait()}")
        return line


@contextmanager
def page_process(folder: Path) -> Iterator[PageProcess]:
    """Serve from another process until the block ends. Raises RuntimeError if it does not."""
    command = [sys.executable, "-m", "esper_async.study.bench.page_child", str(folder)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        try:
            yield PageProcess(child)
        finally:
            child.kill()
