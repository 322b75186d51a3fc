"""Log files that processes append to, kept to a size."""

import os
import shutil
from pathlib import Path


def rotate(path: Path, limit_bytes: int) -> bool:
    """Once a log is larger than the limit, keep it as `NAME.1` and begin anew; tell whether it was.

    Whoever has the file open for appending goes on in it, so nobody need be told; what is written
    in the instant between the copy and the cut is lost. Raises OSError, when there is no room say.
    """
    try:
        if path.stat().st_size <= limit_bytes:
            return False
    except FileNotFoundError:
        return False
    older = path.with_name(f"{path.name}.1")
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        shutil.copyfile(path, scratch)
        scratch.chmod(0o600)
        scratch.replace(older)
    finally:
        scratch.unlink(missing_ok=True)
    os.truncate(path, 0)
    return True


def cut(path: Path) -> int:
    """Empty a log and forget its older part; return the bytes that were freed. Raises OSError."""
    older = path.with_name(f"{path.name}.1")
    freed = sum(each.stat().st_size for each in (path, older) if each.exists())
    older.unlink(missing_ok=True)
    if path.exists():
        os.truncate(path, 0)
    return freed
