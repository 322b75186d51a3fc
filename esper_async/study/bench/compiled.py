"""Compiled kernels for the benchmarks: made as the forge's worker makes them, found as runs do."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from esper_async.kasmina.compiling.kernel_artifact import artifact_key, record_key, unpack
from esper_async.kasmina.compiling.kernel_compiler import compilation_key
from esper_async.kasmina.compiling.kernel_program import KernelProgram
from esper_async.kasmina.compiling.kernel_record import Compilation, Strategy
from esper_async.kasmina.interface import SiteInterface
from esper_async.leyline.signing import KEY_BYTES, Signer
from esper_async.tezzeret import compilation
from esper_async.tezzeret.job import Compile, JobKind, Work
from esper_async.urza import Library

SIGNER = Signer(bytes(KEY_BYTES))


@dataclass(frozen=True, slots=True)
class Wish:
    """A kernel to be compiled for batches of one size, on one thread."""

    blueprint: str
    interface: SiteInterface
    batch: int

    @property
    def key(self) -> str:
        """The name of what comes of it."""
        return compilation_key(self.blueprint, self.interface, batch=self.batch, threads=1)


@contextmanager
def opened(folder: Path) -> Iterator[Library]:
    """Open the library in a folder, as a process does that has just started."""
    library = Library(folder / "urza", actor="bench", signer=SIGNER)
    try:
        yield library
    finally:
        library.close()


def compile_all(folder: Path, wishes: list[Wish]) -> list[Compilation]:
    """Have each kernel compiled, unless it is there; return what came of each.

    Raises:
        RuntimeError: one could not be.
    """
    scratch = folder / "scratch"
    scratch.mkdir(exist_ok=True)
    found = []
    with opened(folder) as library:
        for wish in wishes:
            work = Work(
                JobKind.COMPILE,
                wish.interface,
                "bench",
                wish.blueprint,
                compile=Compile(wish.batch, 1, Strategy.STANDARD),
            )
            outcome = compilation.compile_into(work, library, scratch)
            if outcome["outcome"] == "failed":
                worse = Compile(wish.batch, 1, Strategy.EMERGENCY, outcome["error"])
                outcome = compilation.compile_into(
                    Work(JobKind.COMPILE, wish.interface, "bench", wish.blueprint, compile=worse),
                    library,
                    scratch,
                )
            if outcome["outcome"] != "done":
                raise RuntimeError(f"{wish.blueprint}: {outcome}")
            content = library.read(record_key(wish.key))
            assert content is not None
            found.append(Compilation.from_json(content))
    return found


def load(folder: Path, record: Compilation, scratch: Path) -> KernelProgram:
    """Load a kernel that was kept."""
    with opened(folder) as library:
        artifact = library.read(artifact_key(record.key), sealed=True)
    assert artifact is not None, "a kept kernel has an artifact"
    unpack(artifact, scratch)
    return KernelProgram(scratch)
