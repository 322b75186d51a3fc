"""Finding the places of a network where a seed can grow, by tracing one batch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from esper_async.kasmina.call import (
    Call,
    Forward,
    cloned_buffers,
    detached_parameters,
    first_batch_size,
)
from esper_async.kasmina.interface import InterfaceKind, Layout, SiteInterface
from esper_async.kasmina.kernels.graft import Form, first_tensor
from esper_async.kasmina.modes import training_mode
from esper_async.kasmina.random_state import RandomStream, fresh_stream

_ONE_DIMENSIONAL = (
    nn.Conv1d,
    nn.ConvTranspose1d,
    nn.MaxPool1d,
    nn.AvgPool1d,
    nn.AdaptiveAvgPool1d,
    nn.AdaptiveMaxPool1d,
    nn.BatchNorm1d,
    nn.InstanceNorm1d,
)
_NO_SITES = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout, nn.Identity, nn.Flatten)
_OF_ATTENTION = (
    nn.TransformerEncoder,
    nn.TransformerEncoderLayer,
    nn.TransformerDecoder,
    nn.TransformerDecoderLayer,
)
_IN_A_ROW = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


class NoSiteError(ValueError):
    """The network has no place where a seed could grow, or a named one is not such a place."""


@dataclass(frozen=True, slots=True)
class Site:
    """A named place in the network: the output of the submodule at `path`.

    `form` says how the activation's dimensions are laid out; a conv1d activation (N,C,L) has the
    interface (C,1,L).
    """

    name: str
    path: str
    interface: SiteInterface
    form: Form
    depth: int


@dataclass(slots=True)
class _Event:
    path: str
    module: nn.Module
    output: Tensor
    varies: bool = False
    form: Form | None = None


def find_sites(
    model: nn.Module, forward: Forward, batch: Any, named: Mapping[str, str] | None = None
) -> list[Site]:
    """Trace a batch through the host and return its sites in the order of execution.

    With `named` (site name to submodule path) just those. The host's weights, buffers, mode and
    random streams are untouched.

    Raises:
        NoSiteError: none was found, or a named one is missing, is not called, or returns no
            activation with the batch as its first dimension.
    """
    events, final = _trace(model, forward, batch)
    batch_size = first_batch_size(batch)
    _mark_forms(events, batch_size, _time_first(model))
    if named is not None:
        return [_named_site(model, events, *item) for item in named.items()]
    chosen = _choose(events, final)
    if not chosen:
        raise NoSiteError(
            "no site to grow at was found: no submodule returns an activation of shape (N,F), "
            "(N,T,D), (N,C,L) or (N,C,H,W) other than the output itself; name sites by their "
            "submodule paths"
        )
    return [_site(event.path, event, depth) for depth, event in enumerate(chosen)]


def called_paths(model: nn.Module, forward: Forward, batch: Any) -> set[str]:
    """Return the paths of the submodules that a batch goes through and that return a tensor."""
    return {event.path for event in _trace(model, forward, batch)[0]}


def _trace(model: nn.Module, forward: Forward, batch: Any) -> tuple[list[_Event], list[Tensor]]:
    events: list[_Event] = []
    seen: dict[str, _Event] = {}
    handles = []

    def record(path: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            activation = first_tensor(output) if output != () else None
            if not isinstance(activation, Tensor):
                return
            if path in seen:
                seen[path].varies |= seen[path].output.shape != activation.shape
                return
            seen[path] = _Event(path, module, activation)
            events.append(seen[path])

        return hook

    for path, module in model.named_modules():
        if path and not _is_apart(path):
            handles.append(module.register_forward_hook(record(path)))
    tensors = {**detached_parameters(model), **cloned_buffers(model)}
    try:
        with (
            training_mode([model]),
            torch.no_grad(),
            RandomStream(fresh_stream("trace")).active(),
        ):
            output, _ = Call(model, forward).with_tensors(tensors, batch)
    finally:
        for handle in handles:
            handle.remove()
    return events, _tensors_in(output)


def _tensors_in(output: Any) -> list[Tensor]:
    """Return the network's outputs: the tensor, the first of a tuple, or a dict's values."""
    values = output.values() if isinstance(output, Mapping) else [first_tensor(output)]
    return [value for value in values if isinstance(value, Tensor)]


def _is_apart(path: str) -> bool:
    """Whether a module is no part of the host's own forward pass: a graft, a parametrization."""
    parts = path.split(".")
    return "parametrizations" in parts or any(part.startswith("esper_") for part in parts)


def _time_first(model: nn.Module) -> tuple[str, ...]:
    """Return the paths of the layers that are set to (T, N, D), torch's default.

    A sequence may be as long as its batch, so that the shape alone does not tell.
    """

    def is_time_first(module: nn.Module) -> bool:
        parts = module.modules() if isinstance(module, _OF_ATTENTION) else [module]
        return any(getattr(part, "batch_first", True) is False for part in parts)

    return tuple(path for path, module in model.named_modules() if is_time_first(module))


def _mark_forms(events: list[_Event], batch_size: int, time_first: tuple[str, ...]) -> None:
    one_dimensional: set[int] = set()
    previous: _Event | None = None
    for event in events:
        output = event.output
        if output.ndim == 3 and _is_one_dimensional(event, previous, one_dimensional):
            one_dimensional.add(id(output))
        previous = event
        if event.varies or not output.is_floating_point():
            continue
        if output.ndim == 0 or output.shape[0] != batch_size:
            continue
        if output.ndim == 4:
            event.form = "nchw"
        elif output.ndim == 3 and any(f"{event.path}.".startswith(f"{p}.") for p in time_first):
            continue
        elif output.ndim == 3:
            event.form = "ncl" if id(output) in one_dimensional else "ntd"
        elif output.ndim == 2:
            event.form = "nf"


def _is_one_dimensional(event: _Event, previous: _Event | None, known: set[int]) -> bool:
    """Whether a rank-3 output is (N,C,L): by its module, or because it follows one that is."""
    if isinstance(event.module, _ONE_DIMENSIONAL) or id(event.output) in known:
        return True
    if isinstance(event.module, nn.Linear | nn.LayerNorm | nn.RNNBase | nn.Embedding):
        return False
    return (
        previous is not None
        and id(previous.output) in known
        and previous.output.shape == event.output.shape
    )


def _choose(events: list[_Event], final: list[Tensor]) -> list[_Event]:
    """Keep one site for each run of equal activations, named by the outermost block."""
    candidates = [
        event
        for event in events
        if event.form is not None
        and not isinstance(event.module, (*_NO_SITES, *_IN_A_ROW))
        and not any(_same_storage(event.output, output) for output in final)
    ]
    containers = [event for event in candidates if _is_container(event)]
    visible = [event for event in candidates if not _hidden(event, containers)]
    chosen: list[_Event] = []
    for event in visible:
        if chosen and _repeats(chosen[-1], event):
            chosen[-1] = event
        else:
            chosen.append(event)
    return chosen


def _same_storage(one: Tensor, other: Tensor) -> bool:
    return (
        one.numel() == other.numel()
        and one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()
    )


def _is_container(event: _Event) -> bool:
    attention = isinstance(event.module, nn.MultiheadAttention)  # its only child is never called
    return not attention and any(True for _ in event.module.children())


def _hidden(event: _Event, containers: list[_Event]) -> bool:
    """Whether a block around `event` stands for it.

    A block stands for the layers inside it that have its interface, and for an inner block whose
    very output it returns.
    """
    around = [block for block in containers if event.path.startswith(f"{block.path}.")]
    if _is_container(event):
        return any(block.output is event.output for block in around)
    return any(
        block.form == event.form and block.output.shape == event.output.shape for block in around
    )


def _repeats(before: _Event, event: _Event) -> bool:
    """Whether `event` only refines the activation of the layer before it (a norm, a rectifier)."""
    return (
        not _is_container(before)
        and not _is_container(event)
        and not any(parameter.ndim > 1 for parameter in event.module.parameters())
        and before.path.rpartition(".")[0] == event.path.rpartition(".")[0]
        and before.form == event.form
        and before.output.shape == event.output.shape
    )


def _named_site(model: nn.Module, events: list[_Event], name: str, path: str) -> Site:
    by_path = {event.path: (depth, event) for depth, event in enumerate(events)}
    try:
        module = model.get_submodule(path)
    except AttributeError as error:
        raise NoSiteError(f"site {name!r}: the model has no submodule {path!r}") from error
    while isinstance(module, nn.Sequential) and len(module):
        path = f"{path}.{list(module._modules)[-1]}"
        module = module[-1]
    if path not in by_path:
        raise NoSiteError(
            f"site {name!r}: the submodule {path!r} was not called on a batch, or returns no tensor"
        )
    depth, event = by_path[path]
    if event.varies:
        raise NoSiteError(
            f"site {name!r}: {path!r} is used at several places with different shapes; name a "
            f"module of its own for one of them"
        )
    if event.form is None:
        raise NoSiteError(
            f"site {name!r}: {path!r} returns {tuple(event.output.shape)}; a site needs a float "
            f"activation of 2 to 4 dimensions with the batch first"
        )
    return _site(name, event, depth)


def _site(name: str, event: _Event, depth: int) -> Site:
    shape = tuple(event.output.shape[1:])
    form = event.form
    assert form is not None
    kinds: dict[Form, InterfaceKind] = {
        "nchw": "spatial",
        "ncl": "spatial",
        "ntd": "sequence",
        "nf": "feature",
    }
    if form == "ncl":
        shape = (shape[0], 1, shape[1])
    dtype = str(event.output.dtype).removeprefix("torch.")
    interface = SiteInterface(kinds[form], shape, dtype, _layout(event.output))
    return Site(name, event.path, interface, form, depth)


def _layout(activation: Tensor) -> Layout:
    """Return how an activation lies in memory; one that is both ways at once is contiguous."""
    if activation.ndim != 4 or activation.is_contiguous():
        return "contiguous"
    last = activation.is_contiguous(memory_format=torch.channels_last)
    return "channels_last" if last else "contiguous"
