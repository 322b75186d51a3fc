"""Hosts that were compiled beforehand: what was compiled is taken over as regions.

A seed cannot join what `torch.compile` has wrapped: dynamo does not look for new hooks, names have
`_orig_mod.` in them, and a copy has lost its programs. So the wraps are taken off, and the same
modules are compiled again as regions, by the same compilers with the same options.
"""

import inspect
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Self

import torch
from torch import nn

from esper_async.kasmina.compiling.choice import CompileError, CompileMode, Compiling
from esper_async.kasmina.compiling.region import Compiler, is_inside, told, watch_hooks


def is_wrapped(model: nn.Module) -> bool:
    """Whether a model is what `torch.compile(module)` returns."""
    dynamo = sys.modules.get("torch._dynamo")  # without it nothing can have been compiled
    return (
        dynamo is not None
        and isinstance(model, dynamo.OptimizedModule)
        and not isinstance(model.dynamo_ctx, dynamo.eval_frame.DisableContext)
    )


def take_over(model: nn.Module) -> tuple[nn.Module, dict[str, Compiler]]:
    """Take off what compiles a model or its submodules; return the plain one, and what it was.

    Submodules are replaced in place. What was compiled inside something compiled is part of it.

    Raises:
        CompileError: a submodule was compiled in a way that cannot be taken over.
    """
    compilers: dict[int, Compiler] = {}
    model = _unwrapped(model, compilers)
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if is_wrapped(child):
                module._modules[name] = _unwrapped(child, compilers)
    found: dict[str, Compiler] = {}
    for path, module in model.named_modules():
        compiler = _compiled_in_place(path, module) or compilers.get(id(module))
        if compiler is not None and not any(is_inside(path, region) for region in found):
            found[path] = compiler
    if found:  # whoever holds on to a wrap is to see what grows, too
        watch_hooks()
        torch.compiler.reset()
    return model, found


def _unwrapped(model: nn.Module, compilers: dict[int, Compiler]) -> nn.Module:
    while is_wrapped(model):
        wrap: Any = model
        model = wrap._orig_mod
        compilers[id(model)] = _AsBefore(wrap.dynamo_ctx)
    return model


def _compiled_in_place(path: str, module: nn.Module) -> Compiler | None:
    """Undo `module.compile(...)`; return what compiled it."""
    compiled = module._compiled_call_impl
    if compiled is None:
        return None
    compiler = inspect.getclosurevars(compiled).nonlocals.get("self")
    if not callable(compiler):
        raise CompileError(
            f"{told(path)} was compiled in place, by what is not known; leave it plain, and say "
            f'compile = "regions", compile_regions = [{path!r}]'
        )
    module._compiled_call_impl = None
    return _AsBefore(compiler)


class _AsBefore:
    """The compiler of something that was compiled beforehand; one serves all copies of a task."""

    def __init__(self, compiler: Compiler) -> None:
        self._compiler = compiler

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return self._compiler(function)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self


def compiling_of(wanted: CompileMode | Compiling, model: nn.Module) -> Compiling:
    """Return how a model in a loop of the caller's is compiled, with what was so beforehand.

    Raises:
        CompileError: the model itself is what `torch.compile` returned.
    """
    compiling = wanted if isinstance(wanted, Compiling) else Compiling(mode=wanted)
    if is_wrapped(model):
        raise CompileError(
            "the model is what torch.compile(module) returned, and what grows in the module would "
            'not be seen there: give the module itself, with compile="model", and call it in your '
            "loop"
        )
    found = take_over(model)[1]
    return replace(compiling, taken_over={**compiling.taken_over, **found})
