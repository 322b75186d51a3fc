"""Content-addressed blobs: a file is named by the SHA-256 of what is in it, and never changes."""

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path

from esper_async.runtime.files import write_atomically

_NAME_LENGTH = 64


class BlobStore:
    """Blobs under `directory/blobs`; damaged ones are moved to `directory/quarantine`.

    Safe from several threads and processes: a blob appears by one rename, and writing it twice
    writes the same bytes. Every method may raise OSError.
    """

    def __init__(self, directory: Path) -> None:
        self._blobs = directory / "blobs"
        self._quarantine = directory / "quarantine"
        self._blobs.mkdir(parents=True, exist_ok=True)

    def put(self, content: bytes) -> str:
        """Keep `content`; its SHA-256. A damaged file of that name is replaced."""
        name = hashlib.sha256(content).hexdigest()
        if self.read(name) is None:
            write_atomically(self.path(name), content)
        return name

    def read(self, name: str) -> bytes | None:
        """The content, verified; None when the blob is missing or damaged."""
        try:
            content = self.path(name).read_bytes()
        except FileNotFoundError:
            return None
        return content if hashlib.sha256(content).hexdigest() == name else None

    def quarantine(self, name: str) -> Path | None:
        """Move a damaged blob out of the way; where it lies now, None when there was none."""
        source = self.path(name)
        target = self._quarantine / f"{name}.{time.time_ns()}"
        target.parent.mkdir(exist_ok=True)
        try:
            source.replace(target)
        except FileNotFoundError:
            return None
        return target

    def remove(self, name: str) -> int:
        """Delete a blob; the bytes freed."""
        path = self.path(name)
        try:
            size_bytes = path.stat().st_size
            path.unlink()
        except FileNotFoundError:
            return 0
        return size_bytes

    def names(self) -> Iterator[str]:
        """The names of all blobs on disk, in no order."""
        for path in self._blobs.glob("*/*"):
            if len(path.name) == _NAME_LENGTH:
                yield path.name

    def age_s(self, name: str, now: float) -> float:
        """Seconds since the blob was written; 0 when it is gone."""
        try:
            return now - self.path(name).stat().st_mtime
        except FileNotFoundError:
            return 0.0

    def path(self, name: str) -> Path:
        """Where the blob of that name lies."""
        return self._blobs / name[:2] / name
