"""Generate `esper_async/leyline/v1` from `proto/`, or check that it is up to date.

    python -m esper_async.leyline.generate            write the modules and their stubs
    python -m esper_async.leyline.generate --check    fail when what is committed is stale
    python -m esper_async.leyline.generate --release  declare the present protos released, unless
                                                      they break what was released before

Needs the `test` extra (grpcio-tools and mypy-protobuf). Run as a plain file it works even while
`v1` is broken.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
PROTO_DIR = _ROOT / "proto"
OUTPUT_DIR = Path(__file__).resolve().parent / "v1"
RELEASED = PROTO_DIR / "released.binpb"
_PACKAGE = "esper/leyline/v1"
_INIT = '"""Generated from proto/esper/leyline/v1 by `esper_async.leyline.generate`."""\n'


def _protoc(*arguments: str) -> None:
    """Run protoc over every proto of the package. Raises RuntimeError with its complaint."""
    sources = sorted(str(path) for path in (PROTO_DIR / _PACKAGE).glob("*.proto"))
    plugin = Path(sys.executable).parent / "protoc-gen-mypy"
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTO_DIR}"]
    command += [f"--plugin=protoc-gen-mypy={plugin}", *arguments, *sources]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"protoc failed (is the `test` extra installed?):\n{done.stderr}")


def render() -> dict[str, str]:
    """Return the generated files by name, with imports that fit this package."""
    with tempfile.TemporaryDirectory() as scratch:
        _protoc(f"--python_out={scratch}", f"--mypy_out=quiet:{scratch}")
        found = sorted((Path(scratch) / _PACKAGE).glob("*_pb2.py*"))
        files = {path.name: path.read_text() for path in found}
    rehomed = {
        name: re.sub(
            r"(?m)(^from |')esper\.leyline\.v1(?=[ .]\w+)", r"\1esper_async.leyline.v1", text
        )
        for name, text in files.items()
    }
    return {"__init__.py": _INIT, **rehomed}


def descriptor_set() -> bytes:
    """Return the protos as a serialised `FileDescriptorSet`, without comments."""
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch) / "set.binpb"
        _protoc(f"--descriptor_set_out={target}")
        return target.read_bytes()


def stale_files(rendered: dict[str, str]) -> list[str]:
    """Name every committed file that differs from `rendered`, is missing or is left over."""
    present = {path.name for path in OUTPUT_DIR.glob("*.py*")}
    changed = {
        name
        for name, text in rendered.items()
        if name not in present or (OUTPUT_DIR / name).read_text() != text
    }
    return sorted(changed | (present - rendered.keys()))


def broken_by(present: bytes) -> list[str]:
    """Name what a release of `present` would break for those who hold the released protos."""
    # only here, as the package cannot be imported while `v1` is broken
    from google.protobuf.descriptor_pb2 import FileDescriptorSet

    from esper_async.leyline.compatibility import breaking_changes

    if not RELEASED.exists():
        return []
    released = FileDescriptorSet.FromString(RELEASED.read_bytes())
    return breaking_changes(released, FileDescriptorSet.FromString(present))


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--check", action="store_true", help="only say what is stale")
    parser.add_argument("--release", action="store_true", help="pin the protos as released")
    options = parser.parse_args(argv)
    rendered = render()
    stale = stale_files(rendered)
    if options.check:
        if stale:
            sys.stderr.write(
                f"stale: {', '.join(stale)}; run python -m esper_async.leyline.generate\n"
            )
        return 1 if stale else 0
    if options.release and (broken := broken_by(descriptor_set())):
        sys.stderr.write(
            f"not released: {'; '.join(broken)}; put back what was released, and append what is "
            "new under numbers of its own\n"
        )
        return 1
    OUTPUT_DIR.mkdir(exist_ok=True)
    for name in stale:
        if name in rendered:
            (OUTPUT_DIR / name).write_text(rendered[name])
        else:
            (OUTPUT_DIR / name).unlink()
    if options.release:
        RELEASED.write_bytes(descriptor_set())
    sys.stdout.write(f"{len(stale)} files written to {OUTPUT_DIR}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
