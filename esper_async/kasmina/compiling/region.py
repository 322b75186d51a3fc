"""Regions: parts of a network whose forward pass is compiled, while seeds at their borders are not.

A region replaces the attribute `forward` of one module by a compiled one. Whatever hooks the module
has then run outside: a seed at a region's border joins and leaves without a recompilation. One that
lies inside makes the region another program: it gets a function of its own for each set of grafts
in it, so that none is taken for another and each has dynamo's whole limit of recompilations.
"""

import inspect
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import count
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import nn

from esper_async.kasmina.compiling.likeness import likeness
from esper_async.kasmina.compiling.row import end_of, run_hooks, run_row
from esper_async.kasmina.kernels.graft import grafts_of

Function = Callable[..., Any]
Compiler = Callable[[Function], Function]
"""Makes a compiled function of a function, as `torch.compile` does."""

_VERSIONS = 2  # the network's own, and that of its twin or of before the trial
_numbers = count(1)
_runs_plainly = ContextVar("_runs_plainly", default=False)


class CompiledForward:
    """The compiled forward pass of a module, held as the module's own attribute `forward`.

    A copy of the module, or a pickle, has the plain one, and so has a program exported from it.

    Args:
        module: whose forward pass it is.
        run: the compiled function of (module, args, kwargs).
        end: the last layer, if the module is a row; its hooks run after the compiled function.
    """

    def __init__(self, module: nn.Module, run: Function, end: nn.Module | None) -> None:
        self.module = module
        self.run = run
        self._end = end
        # what others look at in a forward pass: trainers its arguments, exporters its code
        plain = MethodType(type(module).forward, module)
        self.__signature__ = inspect.signature(plain)
        self.__code__ = plain.__code__

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the module's class computes."""
        if _runs_plainly.get() or torch.compiler.is_compiling():
            return type(self.module).forward(self.module, *args, **kwargs)
        value = self.run(self.module, args, kwargs)
        return value if self._end is None else run_hooks(self._end, value)

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (self.module, "forward")


class Region:
    """One compiled part of a network.

    Args:
        path: of the module in its network.
        module: the module itself.
        compiler: makes its compiled function.
        versions: functions by the grafts inside, of a region that this one is a copy of, or like.

    Attributes:
        versions: its functions, by the names of the grafts inside.
        border: the path at whose output a seed stands at the region's border: its own, or that of
            a row's last layer.
    """

    def __init__(
        self,
        path: str,
        module: nn.Module,
        compiler: Compiler,
        versions: Mapping[tuple[str, ...], Function] | None = None,
    ) -> None:
        self.path = path
        self.border, end = end_of(path, module)
        self._module = module
        self._compiler = compiler
        self._is_row = end is not module
        self.versions = dict(versions or {})
        self._forward = CompiledForward(module, self._version(), end if self._is_row else None)
        module.forward = self._forward

    def adapt(self) -> bool:
        """Take the function for the grafts that are inside now; return whether it is another."""
        before, self._forward.run = self._forward.run, self._version()
        return self._forward.run is not before

    def is_compiled(self) -> bool:
        """Whether there is a program for the region as it is: whether it has been called, too."""
        from torch._C._dynamo import eval_frame

        function = getattr(self._forward.run, "_torchdynamo_orig_callable", None)
        # without it the compiler is switched off, by TORCHDYNAMO_DISABLE
        entries = eval_frame._debug_get_cache_entry_list
        return function is not None and bool(entries(function.__code__))

    def copied(self, module: nn.Module) -> "Region":
        """Return the same region of a copy of the network; what is compiled serves both."""
        return Region(self.path, module, self._compiler, self.versions)

    def remove(self) -> None:
        """Give the module its plain forward pass back."""
        self._module.__dict__.pop("forward", None)

    def _version(self) -> Function:
        inside = tuple(name for name in grafts_of(self._module) if not self._is_at_border(name))
        run = self.versions.pop(inside, None)
        self.versions[inside] = run or self._compiler(self._function())
        for oldest in list(self.versions)[:-_VERSIONS]:
            del self.versions[oldest]
        return self.versions[inside]

    def _is_at_border(self, name: str) -> bool:
        return ".".join(filter(None, (self.path, name))).rpartition(".")[0] == self.border

    def _function(self) -> Function:
        """Return a function with a code object of its own: by those dynamo keeps its programs."""
        body = _row_forward if self._is_row else _forward
        name = f"region_{next(_numbers)}_{self.path.replace('.', '_') or 'model'}"
        return FunctionType(body.__code__.replace(co_name=name), body.__globals__, name)


class Regions:
    """The compiled regions of one network.

    Attributes:
        changes: what has changed inside regions since it was last emptied, for a person to read.
    """

    def __init__(self, regions: Iterable[Region]) -> None:
        self._regions = {region.path: region for region in regions}
        self.changes: list[str] = []

    @classmethod
    def of(cls, model: nn.Module, compilers: Mapping[str, Compiler]) -> "Regions":
        """Compile the modules of those paths; nothing is traced before they are first called.

        Modules that are alike share a program, until a graft comes into one of them.
        """
        watch_hooks()
        programs: dict[Hashable, Mapping[tuple[str, ...], Function]] = {}
        regions = []
        for path, compiler in compilers.items():
            module = model.get_submodule(path)
            alike = (likeness(module), compiler)
            region = Region(path, module, compiler, programs.get(alike))
            programs[alike] = region.versions
            regions.append(region)
        return cls(regions)

    @property
    def paths(self) -> list[str]:
        """Where the regions are; "" is the whole network."""
        return list(self._regions)

    def idle(self) -> list[str]:
        """Return the regions of which nothing has been compiled, for a person to read."""
        return [told(path) for path, region in self._regions.items() if not region.is_compiled()]

    def adapt(self, what: str) -> None:
        """Let each region be what it has become by `what`: a graft that came, or left."""
        for region in self._regions.values():
            if region.adapt():
                self.changes.append(f"{what} inside {told(region.path)}")

    def copied(self, model: nn.Module) -> "Regions":
        """Return the regions of a copy of the network."""
        return Regions(r.copied(model.get_submodule(p)) for p, r in self._regions.items())

    def close(self) -> None:
        """Give every module its plain forward pass back."""
        for region in self._regions.values():
            region.remove()


def is_inside(path: str, region: str) -> bool:
    """Whether a module's path lies below a region's."""
    return path != region and (region == "" or path.startswith(f"{region}."))


def told(path: str) -> str:
    """Return how messages call a region."""
    return repr(path) if path else "the whole network"


@contextmanager
def plainly() -> Iterator[None]:
    """Run networks as they are written for a block, whatever of them is compiled."""
    token = _runs_plainly.set(True)
    try:
        yield
    finally:
        _runs_plainly.reset(token)


def watch_hooks() -> None:
    """Let dynamo notice hooks that come and go, which it does not unless it is told to.

    Regions need it only where a forward pass cannot be traced as a whole: dynamo then compiles
    frames that belong to the module's class, and would take a network without a graft for one with.
    """
    from torch._dynamo import config  # slow to import, and few runs compile

    config.skip_nnmodule_hook_guards = False


def _forward(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return type(module).forward(module, *args, **kwargs)


def _row_forward(row: nn.Sequential, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return run_row(row, *args, **kwargs)
