"""Growth with one of its ideas taken away, to see what the idea is worth.

Each is a block within which runs of this process are ablated. They exist for studies alone: no
setting reaches them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook

from esper_async.kasmina import shadow
from esper_async.kasmina.kernels.graft import FullyOnHook, first_tensor, with_first_tensor
from esper_async.kasmina.seed import Seed
from esper_async.kasmina.shadow import add_gradients, shadow_places, shadow_step
from esper_async.kasmina.stand_in import Place
from esper_async.study.bench.benchmark import replaced
from esper_async.study.bench.breaking import DEPENDENCE_READ


class _StraightThrough(FullyOnHook):
    """Sends the host's own activation on, and the gradient of what comes out to the kernel.

    A kernel that is trained so follows the host's gradient and never feels its own effect.
    """

    def __call__(self, module: nn.Module, args: Any, output: Any) -> Any:
        """Return the output, its activation equal to the host's."""
        return with_first_tensor(output, self._carry(first_tensor(output)))

    def _carry(self, activation: Tensor) -> Tensor:
        change = self.graft(activation, fully_on=True) - activation
        carried: Tensor = activation + change - change.detach()
        return carried


@contextmanager
def _straight_through() -> Iterator[None]:
    def step(*given: Any, **named: Any) -> Tensor:
        with replaced(f"{shadow.__name__}.FullyOnHook", _StraightThrough):
            return shadow_step(*given, **named)

    with replaced("esper_async.kasmina.shadow_training.shadow_step", step):
        yield


class _Joint:
    """Seeds that train the host along: it takes the gradient of every shadow pass, too.

    What a pass would do to the host's gradients is set aside and added at the host's next step. Its
    gradients are never touched in between, so that no gate quarantines the seed for it. Buffers and
    random numbers stay the seed's own.
    """

    def __init__(self) -> None:
        self._host: list[nn.Parameter] = []
        self._pending: dict[nn.Parameter, Tensor] = {}

    def places(self, model: nn.Module, seed: Seed) -> list[Place]:
        """Return what stands in for the host: all but its parameters, which stay attached."""
        self._host = [each for each in model.parameters() if each.requires_grad]
        own = [id(module._parameters) for module in model.modules()]
        return [place for place in shadow_places(model, seed) if id(place.holder) not in own]

    def add_gradients(self, parameters: Sequence[nn.Parameter], value: Tensor) -> None:
        """Give the seed's parameters their gradients, and set the host's aside."""
        host = torch.autograd.grad(value, self._host, allow_unused=True, retain_graph=True)
        add_gradients(parameters, value)
        for parameter, gradient in zip(self._host, host, strict=True):
            if gradient is not None:
                before = self._pending.get(parameter)
                self._pending[parameter] = gradient if before is None else before + gradient

    def before_step(self, optimizer: Optimizer, *_: Any) -> None:
        """Add what was set aside to the gradients that an optimizer is about to follow."""
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                gradient = self._pending.pop(parameter, None)
                if gradient is not None and parameter.grad is not None:
                    parameter.grad.add_(gradient)


@contextmanager
def _no_isolation() -> Iterator[None]:
    joint = _Joint()
    handle = register_optimizer_step_pre_hook(joint.before_step)
    try:
        with (
            replaced(f"{shadow.__name__}.shadow_places", joint.places),
            replaced(f"{shadow.__name__}.add_gradients", joint.add_gradients),
        ):
            yield
    finally:
        handle.remove()


ABLATIONS: Mapping[str, Callable[[], AbstractContextManager[Any]]] = {
    "": nullcontext,
    "straight through": _straight_through,
    "gates read dependence": DEPENDENCE_READ.breaks,
    "no isolation": _no_isolation,
}
"""By the name that a plan calls them by; the empty one takes nothing away."""
