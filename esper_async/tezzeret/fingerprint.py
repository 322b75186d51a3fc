"""What the forge's results depend on besides the request: torch, our own sources, and the CPU."""

import hashlib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import esper_async.kasmina
from esper_async.kasmina.compiling.cpu import cpu_name

_SOURCES = (
    "kernels/**/*.py",
    "proof*.py",
    "certificate.py",
    "code_hash.py",
    "interface.py",
    "compiling/kernel_*.py",
    "compiling/measuring.py",
)


def forge_fingerprint(kasmina: Path | None = None, torch_version: str | None = None) -> str:
    """A short text that differs once torch, a kernel, a proof or the CPU has changed.

    Does not import torch.

    `kasmina` is the package's folder; both arguments are for tests.
    """
    folder = kasmina or Path(next(iter(esper_async.kasmina.__path__)))
    digest = hashlib.sha256((torch_version or installed_torch()).encode())
    digest.update(cpu_name().encode())
    for pattern in _SOURCES:
        for path in sorted(folder.glob(pattern)):
            digest.update(path.relative_to(folder).as_posix().encode() + b"\0")
            digest.update(path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def installed_torch() -> str:
    """The version of the torch that is installed, "none" when it is not."""
    try:
        return version("torch")
    except PackageNotFoundError:
        return "none"
