"""What was compiled beforehand is compiled as a region, with names, copies and seeds in order."""

import copy

import pytest
import torch
from torch import nn

from esper_async.kasmina.compiling.choice import CompileError
from esper_async.kasmina.compiling.region import told
from esper_async.kasmina.compiling.taken_over import compiling_of, is_wrapped, take_over
from tests.growth_hosts import differing
from tests.kasmina.compiled_plots import (
    INSIDE,
    BlockHost,
    CompiledPlot,
    blend,
    block_host,
    compiler,  # noqa: F401 - used by every test
    inputs,
)
from tests.kasmina.plots import Plot

pytestmark = pytest.mark.usefixtures("compiler")


def wrapped_block() -> BlockHost:
    """Return a host with a wrapped child."""
    host = block_host()
    host.blocks[0] = torch.compile(host.blocks[0], backend="eager")
    return host


def block_in_place() -> BlockHost:
    """Return a host with a child that was compiled in place."""
    host = block_host()
    host.blocks[0].compile(backend="eager")
    return host


def whole_in_place() -> BlockHost:
    """Return a host that was compiled in place, with a wrapped child."""
    host = wrapped_block()
    host.compile(backend="eager")
    return host


def wrapped() -> nn.Module:
    """Return what `torch.compile` makes of a host with a wrapped child."""
    return torch.compile(wrapped_block(), backend="eager")  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("make", "regions"),
    [
        (wrapped_block, ["blocks.0"]),
        (block_in_place, ["blocks.0"]),
        (whole_in_place, [""]),
        (wrapped, [""]),
        (block_host, []),
    ],
)
def test_the_same_parts_are_compiled_with_the_names_of_the_plain_model(
    make: object, regions: list[str]
) -> None:
    model, found = take_over(make())  # type: ignore[operator]
    assert list(found) == regions
    assert not any(map(is_wrapped, model.modules()))
    assert list(model.state_dict()) == list(block_host().state_dict())
    assert differing(dict(model.state_dict()), dict(block_host().state_dict())) == []


@pytest.mark.parametrize("make", [block_in_place, wrapped])
def test_a_seed_inside_is_in_the_forward_pass_of_what_was_compiled_before(make: object) -> None:
    plain = Plot("mlp", model=block_host(), sites=INSIDE)
    model, found = take_over(make())  # type: ignore[operator]
    compiled = CompiledPlot(model=model, sites=INSIDE, taken_over=found)
    for plot in (plain, compiled):
        blend(plot)
    assert differing(dict(plain.model.state_dict()), dict(compiled.model.state_dict())) == []
    region = told(next(iter(found)))
    assert compiled.causes == ["the first step", f"seed s1 joined inside {region}"]


def test_a_wrap_that_was_called_before_sees_what_grows_after() -> None:
    host = block_host().eval()
    wrap = torch.compile(host, backend="eager")
    rows = inputs()
    bare = wrap(rows)
    plot = Plot("mlp", model=take_over(wrap)[0], sites=INSIDE)  # type: ignore[arg-type]
    blend(plot)
    host.eval()
    assert not torch.equal(wrap(rows), bare)
    assert torch.equal(wrap(rows), copy.deepcopy(host)(rows))


def test_dynamo_alone_does_not_see_a_seed_that_comes_later() -> None:
    """The trap; should torch mend it, `watch_hooks` and the reset can go."""
    with torch._dynamo.config.patch(skip_nnmodule_hook_guards=True):
        host = block_host().eval()
        wrap = torch.compile(host, backend="eager")
        rows = inputs()
        bare = wrap(rows)
        host.blocks[0].up.register_forward_hook(lambda module, args, output: output + 1.0)
        assert torch.equal(wrap(rows), bare)


def test_what_was_disabled_for_the_compiler_stays_so() -> None:
    host = block_host()
    host.blocks[0] = torch.compiler.disable(host.blocks[0])
    assert take_over(host)[1] == {}


def test_a_loop_of_ones_own_gives_the_plain_model() -> None:
    with pytest.raises(CompileError, match='give the module itself, with compile="model"'):
        compiling_of("off", wrapped())
    assert list(compiling_of("off", wrapped_block()).taken_over) == ["blocks.0"]


def test_a_model_is_not_compiled_in_two_ways() -> None:
    with pytest.raises(CompileError, match=r"compiled beforehand \('blocks.0'\): leave compile"):
        compiling_of("model", wrapped_block())


def test_a_task_can_be_copied_with_what_it_was_compiled_by() -> None:
    found = take_over(wrapped_block())[1]
    assert copy.deepcopy(found)["blocks.0"] is found["blocks.0"]
