"""What of a host is compiled: nothing, all of it, or the regions between its sites."""

import os
import shutil
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from types import FunctionType
from typing import Any, Literal, get_args

import torch
from torch import nn

from esper_async.kasmina.compiling.region import Compiler, is_inside, told
from esper_async.kasmina.compiling.row import end_of
from esper_async.runtime.strict_model import nearest

CompileMode = Literal["off", "regions", "model"]
COMPILE_MODES: tuple[CompileMode, ...] = get_args(CompileMode)
_IN_A_ROW = (nn.ModuleList, nn.ModuleDict)


class CompileError(ValueError):
    """A host cannot be compiled as it was asked for; the message says what would be right."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiling:
    """How a host is compiled.

    Args:
        mode: "off", "regions", or "model" for the whole host as one region.
        regions: submodule paths, `*` for any part of one; "auto" takes the largest submodules that
            have no site inside.
        backend: of `torch.compile`.
        dynamic: whether programs serve several shapes: as for `torch.compile`; False makes one for
            each shape, which does not depend on the order in which shapes come.
        taken_over: what the caller had compiled beforehand, by path; it is compiled as it was.

    Raises:
        CompileError: a value is not allowed, or two of them do not go together.
    """

    mode: CompileMode = "off"
    regions: Literal["auto"] | Sequence[str] = "auto"
    backend: str = "inductor"
    dynamic: bool | None = None
    taken_over: Mapping[str, Compiler] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.mode not in COMPILE_MODES:
            raise CompileError(f"compile knows no {self.mode!r}; known: {', '.join(COMPILE_MODES)}")
        if self.regions != "auto" and self.mode != "regions":
            raise CompileError(
                f'compile_regions is given, but compile is "{self.mode}"; set compile = "regions"'
            )
        if isinstance(self.regions, str) and self.regions != "auto":
            raise CompileError(
                f'compile_regions is "auto" or a list of submodule paths, like [{self.regions!r}]'
            )
        if self.taken_over and self.mode != "off":
            names = ", ".join(told(path) for path in self.taken_over)
            raise CompileError(
                f'the model was compiled beforehand ({names}): leave compile = "off", and it is '
                "compiled as it was, or give the plain model"
            )

    @property
    def is_on(self) -> bool:
        """Whether anything is compiled."""
        return self.mode != "off" or bool(self.taken_over)

    def plan(
        self,
        model: nn.Module,
        sites: Iterable[str] = (),
        called: Callable[[], Collection[str]] | None = None,
    ) -> dict[str, Compiler]:
        """Return what is compiled, by path, and how.

        Args:
            model: the host, with nothing compiled in it.
            sites: the paths where seeds may grow.
            called: returns the paths that a batch goes through; None if that is not known.

        Raises:
            CompileError: a region is not there, or is none, or "auto" finds none.
        """
        for path in self.taken_over:
            _refuse_own_forward(path, model.get_submodule(path))
        if self.taken_over or self.mode == "off":
            return dict(self.taken_over)
        check_backend(self.backend)
        if self.mode == "model":
            paths = [""]
        elif isinstance(self.regions, str):
            paths = _between_sites(model, list(sites), None if called is None else set(called()))
        else:
            paths = _named(model, self.regions)
        for path in paths:
            _refuse_own_forward(path, model.get_submodule(path))
        return dict.fromkeys(paths, self.compile)

    def compile(self, function: Any) -> Any:
        """Return a function compiled as it is asked for."""
        return torch.compile(function, backend=self.backend, dynamic=self.dynamic)


def check_backend(backend: str) -> None:
    """Find out whether a backend is there.

    Raises:
        CompileError: it is not, or the C++ compiler that it needs is not.
    """
    from torch._dynamo import list_backends  # slow to import, and few runs compile

    known = list_backends(exclude_tags=())
    if backend not in known:
        close = nearest(backend, known)
        meant = f"did you mean {close!r}? " if close else ""
        raise CompileError(
            f"compile_backend: torch has no {backend!r}; {meant}known: {', '.join(known)}"
        )
    compilers = (os.environ.get("CXX"), "g++", "clang++")
    if backend == "inductor" and not any(name and shutil.which(name) for name in compilers):
        raise CompileError(
            'compile: the backend "inductor" needs a C++ compiler, and there is no g++ here; '
            'install one (Debian: apt-get install g++), or set compile_backend = "aot_eager"'
        )


def _refuse_own_forward(path: str, module: nn.Module) -> None:
    if _has_own_forward(module):
        raise CompileError(
            f"{told(path)} cannot be compiled as a region: its forward pass is not its class's "
            f"({type(module).__name__}.forward), but was set on the module itself, or is no Python "
            "function; compile parts of it"
        )


def _has_own_forward(module: nn.Module) -> bool:
    own, plain = module.__dict__.get("forward"), type(module).forward
    replaced = own is not None and getattr(own, "__func__", None) is not plain
    return replaced or not isinstance(plain, FunctionType)


def _named(model: nn.Module, patterns: Sequence[str]) -> list[str]:
    found: list[str] = []
    known = [path for path, _ in model.named_modules() if path]
    for pattern in patterns:
        matching = [path for path in known if _matches(path, pattern)]
        if not matching:
            close = nearest(pattern, known)
            meant = f"; did you mean {close!r}?" if close else ""
            raise CompileError(f"compile_regions: the model has no submodule {pattern!r}{meant}")
        found += [path for path in matching if path not in found]
    for path in found:
        if isinstance(model.get_submodule(path), _IN_A_ROW):
            raise CompileError(
                f"compile_regions: {path!r} is only a list of modules, which is never called; "
                f"name its members: {path + '.*'!r}"
            )
        around = next((other for other in found if is_inside(path, other)), None)
        if around is not None:
            raise CompileError(
                f"compile_regions: {path!r} lies inside {around!r}; name one of them"
            )
    return found


def _matches(path: str, pattern: str) -> bool:
    """Whether a path has the parts of a pattern, one by one."""
    parts, wanted = path.split("."), pattern.split(".")
    return len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted))


def _between_sites(model: nn.Module, sites: list[str], called: set[str] | None) -> list[str]:
    """Return the largest submodules of several layers that are called and hold no site inside."""
    found = _regions_in(model, "", sites, called)
    if not found:
        raise CompileError(
            'compile_regions = "auto" found no submodule of several layers without a site inside; '
            'name regions or sites yourself, or set compile = "model"'
        )
    return found


def sites_inside(model: nn.Module, region: str, sites: Iterable[str]) -> list[str]:
    """Return the sites that lie inside a region, and not at its border."""
    border, _ = end_of(region, model.get_submodule(region))
    return [site for site in sites if is_inside(site, region) and site != border]


def _regions_in(
    model: nn.Module, path: str, sites: list[str], called: set[str] | None
) -> list[str]:
    module = model.get_submodule(path)
    children = [name for name, _ in module.named_children()]
    if not children:
        return []  # a single layer: nothing to fuse
    is_called = path == "" or called is None or path in called
    is_free = is_called and not _has_own_forward(module) and not sites_inside(model, path, sites)
    if is_free and not isinstance(module, _IN_A_ROW):
        return [path]
    found: list[str] = []
    for name in children:
        found += _regions_in(model, f"{path}.{name}" if path else name, sites, called)
    return found
