"""The hash of a kernel's source: what ties a certificate to the code that it vouches for."""

import ast
import sys
from functools import cache
from hashlib import sha256
from pathlib import Path

from esper_async.kasmina.kernels.registry import kernel_class

_PACKAGE = "esper_async.kasmina.kernels"


@cache
def code_hash(blueprint_id: str) -> str:
    """Return the SHA-256, in hex, of the source files that a kernel is built from.

    These are its own file and, in turn, whatever that imports from the kernels package.

    Raises:
        KernelRefusedError: there is no such blueprint.
    """
    digest = sha256()
    for path in sorted(_sources(kernel_class(blueprint_id, drill=True).__module__)):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def _sources(module_name: str) -> set[Path]:
    """Return a module's file and those of the kernels package that it imports, all the way down."""
    found: dict[str, Path] = {}
    waiting = [module_name]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        source = sys.modules[name].__file__
        assert source is not None, f"{name} has no source file"
        found[name] = Path(source)
        waiting += _imports(found[name])
    return set(found.values())


@cache
def _imports(path: Path) -> list[str]:
    """List the modules of the kernels package that a source file imports from."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [
        node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        and node.module is not None
        and node.module.startswith(f"{_PACKAGE}.")
    ]
