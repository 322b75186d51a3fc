"""A compiled kernel at rest: one file for the library. Torch-free.

It holds native code. So it is put under the library's seal, and read only under it: it must be of
this installation's own make, never from an import, another key's backup or the bus.
"""

import io
import zipfile
from pathlib import Path

KERNEL = "kernel"
"""The library's kind for compiled kernels."""
COMPILATION = "compilation"
"""The library's kind for records of compilations."""
_SUFFIXES = (".so", ".json")


def artifact_key(compilation_key: str) -> str:
    """Return the name under which the library keeps a compiled kernel, sealed."""
    return f"kernel:{compilation_key}"


def record_key(compilation_key: str) -> str:
    """Return the name under which the library keeps what came of compiling a kernel."""
    return f"compilation:{compilation_key}"


def packed(folder: Path) -> bytes:
    """Return the libraries in a folder, and what says how to call them, as one file.

    The same files give the same bytes.
    """
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and path.suffix in _SUFFIXES:
                name = zipfile.ZipInfo(path.relative_to(folder).as_posix())
                archive.writestr(name, path.read_bytes(), zipfile.ZIP_DEFLATED)
    return content.getvalue()


def unpack(content: bytes, folder: Path) -> None:
    """Write what was packed into a folder. Give it only what was read under the library's seal."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        archive.extractall(folder)
