"""A kernel's forward and backward pass as two graphs over plain tensors, which can be shipped.

torch 2.8 ships compiled code only of passes without gradients (AOTInductor). A kernel must stay
trainable; so its joint graph is traced, cut in two where the least has to be kept in between (the
min-cut partitioner of AOTAutograd), and each half is a pass without gradients of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

Place = Literal["input", "computed", "answer", "tangent", "handed"]
Source = tuple[Place, int]
"""Where a tensor comes from, and which one there.

Of what the backward pass is handed: an "input" of the forward pass, one that it "computed", its
"answer", or the "tangent". Of a gradient: one that the backward pass "computed", or one of the
tensors that it was "handed".
"""


class NotCompilableError(Exception):
    """A kernel that no compiler can make a program of that trains; the message says why."""


@dataclass(frozen=True, slots=True)
class KernelGraphs:
    """The two halves.

    Attributes:
        forward: of (weights and buffers..., activation) to (answer, what it computed for later...).
        backward: of what it is handed to the gradients that it computes.
        handed: where each tensor comes from that the backward pass is handed.
        gradients: where the gradient of each input comes from; None for one that has none.
        tangent_stride: how the backward pass was traced to find the answer's gradient in memory.
        names: of the weights and buffers, in the order of the inputs.
    """

    forward: GraphModule
    backward: GraphModule
    handed: tuple[Source, ...]
    gradients: tuple[Source | None, ...]
    tangent_stride: tuple[int, ...]
    names: tuple[str, ...]


def graphs_of(kernel: nn.Module, batch: Tensor) -> KernelGraphs:
    """Trace a kernel in training mode on activations (N, *shape).

    Raises:
        NotCompilableError: it draws random numbers, writes into its buffers or its input, hands
            something on as it is, or cannot be traced.
    """
    from torch._functorch.aot_autograd import aot_export_joint_simple
    from torch._functorch.partitioners import min_cut_rematerialization_partition
    from torch._inductor.decomposition import select_decomp_table

    refuse_random(kernel, batch)
    weights = dict(kernel.named_parameters()) | dict(kernel.named_buffers())
    names = tuple(weights)
    inputs = [*weights.values(), batch.detach().requires_grad_()]

    def run(*tensors: Tensor) -> tuple[Tensor]:
        *given, activation = tensors
        called = torch.func.functional_call(
            kernel, dict(zip(names, given, strict=True)), (activation,)
        )
        return (called,)

    try:
        joint = aot_export_joint_simple(
            run, inputs, trace_joint=True, decompositions=select_decomp_table()
        )
        forward, backward = min_cut_rematerialization_partition(joint, inputs, num_fwd_outputs=1)
    except Exception as error:
        raise NotCompilableError(f"cannot be traced: {_first_line(error)}") from error
    return _tidied(forward, backward, names)


def refuse_random(kernel: nn.Module, batch: Tensor) -> None:
    """Raise NotCompilableError if a forward draws from torch's stream.

    A compiled one would draw other numbers, or in another order.
    """
    before = torch.get_rng_state()
    with torch.no_grad():
        kernel(batch)
    drew = not torch.equal(before, torch.get_rng_state())
    torch.set_rng_state(before)
    if drew:
        raise NotCompilableError("draws random numbers, which would be others when compiled")


def _tidied(forward: GraphModule, backward: GraphModule, names: tuple[str, ...]) -> KernelGraphs:
    """Take out of both halves what is only handed through, and note where it comes from."""
    answer, *later = _outputs(forward)
    if answer is None or answer.op == "placeholder":
        raise NotCompilableError("hands its input on as it is: there is nothing to compile")
    primals = [node.name for node in _placeholders(forward)]
    computed: list[Node] = []
    places: dict[str, Source] = {answer.name: ("answer", 0)}
    for node in filter(None, later):
        if node.name in places:
            continue
        if node.op == "placeholder":
            places[node.name] = "input", primals.index(node.name)
        else:
            places[node.name] = "computed", len(computed)
            computed.append(node)
    taken = [node.name for node in _placeholders(backward)]
    handed: tuple[Source, ...] = tuple(
        ("tangent", 0) if name.startswith("tangents") else places[name] for name in taken
    )
    strides = [
        tuple(node.meta["val"].stride())
        for node in _placeholders(backward)
        if node.name.startswith("tangents")
    ]
    gradients, own = _gradients(backward, taken)
    if not own:
        raise NotCompilableError("its backward pass computes nothing")
    return KernelGraphs(
        _with_outputs(forward, [answer, *computed]),
        _with_outputs(backward, own),
        handed,
        gradients,
        strides[0] if strides else (),
        names,
    )


def _gradients(
    backward: GraphModule, taken: Sequence[str]
) -> tuple[tuple[Source | None, ...], list[Node]]:
    own: list[Node] = []
    sources: list[Source | None] = []
    for node in _outputs(backward):
        if node is None:
            sources.append(None)
        elif node.op == "placeholder":
            sources.append(("handed", taken.index(node.name)))
        else:
            if node not in own:
                own.append(node)
            sources.append(("computed", own.index(node)))
    return tuple(sources), own


def _outputs(graph: GraphModule) -> list[Node | None]:
    (node,) = graph.graph.find_nodes(op="output")
    found: Any = node.args[0]
    return list(found)


def _placeholders(graph: GraphModule) -> list[Node]:
    return list(graph.graph.find_nodes(op="placeholder"))


def _with_outputs(module: GraphModule, outputs: list[Node]) -> GraphModule:
    (node,) = module.graph.find_nodes(op="output")
    node.args = (tuple(outputs),)
    for each in module.graph.nodes:
        each.meta.clear()  # of the trace's own fake tensors, which another trace must not meet
    module.graph.eliminate_dead_code()
    module.graph.lint()  # type: ignore[no-untyped-call]
    module.recompile()
    return module


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else 'no message'}"
