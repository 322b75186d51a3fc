"""Growth with one of its ideas taken away, to see what the idea is worth.

Each is a block within which runs of this process are ablated. They exist for studies alone: no
setting reaches them.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from torch import Tensor, nn

from esper_async.kasmina import shadow
from esper_async.kasmina.kernels.graft import FullyOnHook
from esper_async.kasmina.shadow import shadow_step
from esper_async.study.bench.benchmark import replaced
from esper_async.study.bench.breaking import DEPENDENCE_READ


class _StraightThrough(FullyOnHook):
    """Sends the host's own activation on, and the gradient of what comes out to the kernel.

    A kernel that is trained so follows the host's gradient and never feels its own effect.
    """

    def __call__(self, module: nn.Module, args: Any, output: Any) -> Any:
        """Return the output, its activation equal to the host's."""
        if isinstance(output, tuple):
            return (self._carry(output[0]), *output[1:])
        return self._carry(output)

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


ABLATIONS: Mapping[str, Callable[[], AbstractContextManager[Any]]] = {
    "": nullcontext,
    "straight through": _straight_through,
    "gates read dependence": DEPENDENCE_READ.breaks,
}
"""By the name that a plan calls them by; the empty one takes nothing away."""
