"""A progress line for runs in a terminal: one line, rewritten, on standard error."""

import sys
from collections.abc import Mapping
from typing import Any

_WIDTH = 24


class ProgressLine:
    """Shows how far a run has come; silent where standard error is no terminal."""

    def __init__(self, epochs: int, *, shown: bool) -> None:
        self._epochs = epochs
        self._shown = shown and sys.stderr.isatty()
        self._last = 0

    def certificates(self, done: int, total: int, what: str) -> None:
        """Show that kernels are being proved."""
        self._write(f"proving kernels {done}/{total}  {what}")

    def note(self, record: Mapping[str, Any]) -> None:
        """Show a boundary's metrics."""
        if record["kind"] != "boundary":
            return
        done = min(record["epoch"] / self._epochs, 1.0)
        bar = "#" * round(done * _WIDTH)
        metrics = "  ".join(
            f"{name} {value:.4f}"
            for name, value in record["metrics"].items()
            if isinstance(value, float)
        )
        self._write(f"[{bar:<{_WIDTH}}] {record['epoch']}/{self._epochs}  {metrics}")

    def close(self) -> None:
        """End the line."""
        if self._last:
            sys.stderr.write("\n")
            self._last = 0

    def _write(self, text: str) -> None:
        if self._shown:
            sys.stderr.write("\r" + text.ljust(self._last))
            sys.stderr.flush()
            self._last = len(text)
