"""What a run has of compilation: its host's regions, and what they cost."""

from collections.abc import Callable, Collection, Iterable
from dataclasses import asdict, dataclass
from typing import Any

from esper_async.kasmina.branch import Branch
from esper_async.kasmina.compiling.choice import Compiling
from esper_async.kasmina.compiling.region import Compiler, Regions
from esper_async.kasmina.compiling.watch import Compiled, CompileWatch

_A_WHOLE_STEP = 2  # a trainer's callback begins at the end of one
_START = "the first step"
_OTHERWISE = "other shapes, modes or settings than before"


@dataclass(frozen=True, slots=True)
class Pause:
    """A step that waited for the compiler.

    Attributes:
        cause: why: the first step, a seed inside a region, or another shape.
        compilations: how many programs were compiled.
        recompiles: how many of them later than in the first step.
        ms: how long it took, in milliseconds.
        given_up: what runs as it is written, without the gain: functions past dynamo's limit of
            recompilations, and regions of which nothing was compiled.
    """

    cause: str
    compilations: int
    recompiles: int
    ms: float
    given_up: tuple[str, ...] = ()

    @property
    def surrender(self) -> str:
        """Say what will not be compiled again, and what can be done."""
        return (
            f"torch runs without compiling it: {', '.join(self.given_up)}. Where that had to be "
            "compiled too often, give it batches of fewer shapes, name smaller regions without it "
            "(compile_regions), or set deterministic = false, so that one program may serve "
            "several shapes; where it is never called, or torch cannot compile it, name others"
        )

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {**asdict(self), "given_up": list(self.given_up)}


class HostCompiler:
    """Compiles a branch's network as asked for, and tells of every step that waited for it.

    Args:
        branch: the run's own branch.
        compiling: what is compiled, and how.

    Attributes:
        on_start: called as a compilation begins, which may take long.
        recompiles: how many programs were compiled after the first step.
    """

    def __init__(self, branch: Branch, compiling: Compiling) -> None:
        self.compiling = compiling
        self.on_start: Callable[[], object] | None = None
        self.recompiles = 0
        self._branch = branch
        self._watch: CompileWatch | None = None
        self._is_warm = False
        self._unlooked = _A_WHOLE_STEP
        self._pauses: list[Pause] = []

    @property
    def paths(self) -> list[str]:
        """The regions' paths; "" is the whole network. Empty if nothing is compiled."""
        return [] if self._branch.regions is None else self._branch.regions.paths

    def install(
        self, sites: Iterable[str] = (), called: Callable[[], Collection[str]] | None = None
    ) -> None:
        """Compile what was asked for; the programs are made as the network is first trained.

        Args:
            sites: the paths where seeds may grow.
            called: returns the paths that a batch goes through; None if that is not known.

        Raises:
            CompileError: it cannot be compiled as asked for.
        """
        if self.compiling.is_on and self._branch.regions is None:
            self._install(self.compiling.plan(self._branch.model, sites, called))

    def install_again(self, paths: Iterable[str]) -> None:
        """Compile the regions that a run had before it was resumed."""
        if self.compiling.is_on and self._branch.regions is None:
            compiler = self.compiling.compile
            self._install({path: self.compiling.taken_over.get(path, compiler) for path in paths})

    def _install(self, compilers: dict[str, Compiler]) -> None:
        if compilers:
            self._branch.regions = Regions.of(self._branch.model, compilers)
            self._watch = CompileWatch(self._begins)

    def _begins(self) -> None:
        if self.on_start is not None:
            self.on_start()

    def after_step(self) -> None:
        """Take note of what the step that has just ended waited for."""
        if self._watch is None or self._branch.regions is None:
            return
        compiled = self._watch.take() or Compiled(0, 0.0)
        changes, self._branch.regions.changes = self._branch.regions.changes, []
        given_up = compiled.given_up + self._idle(bool(changes))
        if not compiled.compilations and not given_up:
            return
        was_warm, self._is_warm = self._is_warm, True
        recompiles = compiled.compilations if was_warm else 0
        self.recompiles += recompiles
        cause = ("; ".join(changes) or _OTHERWISE) if was_warm else _START
        self._pauses.append(Pause(cause, compiled.compilations, recompiles, compiled.ms, given_up))

    def _idle(self, has_changed: bool) -> tuple[str, ...]:
        """Look once, when a step has gone through all of them, at what was not compiled."""
        if has_changed:
            self._unlooked = _A_WHOLE_STEP
        self._unlooked -= 1
        if self._unlooked or self._branch.regions is None:
            return ()
        return tuple(self._branch.regions.idle())

    @property
    def has_paused(self) -> bool:
        """Whether a step waited since `take` was last called."""
        return bool(self._pauses)

    def take(self) -> list[Pause]:
        """Return the steps that waited since this was last called."""
        taken, self._pauses = self._pauses, []
        return taken

    def close(self) -> None:
        """Give the network its plain forward pass back."""
        if self._branch.regions is not None:
            self._branch.regions.close()
            self._branch.regions = None
        if self._watch is not None:
            self._watch.close()
            self._watch = None
