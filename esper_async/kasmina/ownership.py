"""Who owns a parameter, and the guard that lets an optimizer step its owner's parameters alone."""

from collections.abc import Callable, Iterable, Mapping
from operator import is_
from typing import Any, NamedTuple
from weakref import ReferenceType, ref

from torch import Tensor, nn
from torch.optim import Optimizer

HOST = "the host"
_WAYS_OUT = {
    True: "a seed is trained by an optimizer of its own: take the parameter out of this one",
    False: "if it is the host's, say so before the step: Grower.register([parameter])",
}


class OwnershipError(RuntimeError):
    """A parameter is not its would-be owner's; it is raised before anything was changed."""


class _Entry(NamedTuple):
    parameter: ReferenceType[Tensor]
    owner: str
    name: str | None


class Owners:
    """The parameters of a branch, each with the one owner that may train it.

    They are told apart by identity, and kept alive by others: an owner that drops a parameter need
    not say so.

    Args:
        model: where names for messages are looked up.

    Attributes:
        on_refusal: told why a step is refused, before the error is raised.
    """

    def __init__(self, model: nn.Module) -> None:
        self.on_refusal: Callable[[str], object] | None = None
        self._model = model
        self._entries: dict[int, _Entry] = {}

    def register(self, owner: str, parameters: Mapping[str, Tensor] | Iterable[Tensor]) -> None:
        """Give parameters to an owner; those that it has already stay its own.

        Names serve messages; a parameter of the model's has one without.

        Raises:
            OwnershipError: one of them has another owner; none was registered.
        """
        named: Iterable[tuple[str | None, Tensor]]
        if isinstance(parameters, Mapping):
            named = list(parameters.items())
        else:
            named = [(None, parameter) for parameter in parameters]
        for _, parameter in named:
            present = self.owner_of(parameter)
            if present not in (None, owner):
                raise OwnershipError(
                    f"{self._name(parameter)} belongs to {present} and cannot be given to {owner}"
                )
        for name, parameter in named:
            self._entries[id(parameter)] = _Entry(ref(parameter), owner, name)

    def release(self, owner: str) -> None:
        """Forget an owner and what it owned."""
        self._entries = {
            key: entry
            for key, entry in self._entries.items()
            if entry.owner != owner and entry.parameter() is not None
        }

    def owner_of(self, parameter: Tensor) -> str | None:
        """Return whose a parameter is; None if it was never registered, or its owner has left."""
        entry = self._entries.get(id(parameter))
        # an address is used again once the parameter that had it is gone
        return entry.owner if entry is not None and entry.parameter() is parameter else None

    def left_of(self, owner: str) -> list[Tensor]:
        """Return an owner's parameters that something still holds."""
        held = [e.parameter() for e in self._entries.values() if e.owner == owner]
        return [parameter for parameter in held if parameter is not None]

    def copied(self, model: nn.Module, memo: Mapping[int, Any]) -> "Owners":
        """Return the owners of a deep copy, whose `memo` says what became of each parameter."""
        others = Owners(model)
        others.on_refusal = self.on_refusal
        for key, (parameter, owner, name) in self._entries.items():
            if parameter() is not None and key in memo:
                others._entries[id(memo[key])] = _Entry(ref(memo[key]), owner, name)
        return others

    def guard(self, owner: str, optimizer: Optimizer) -> None:
        """Refuse each step of an optimizer that would touch what is not `owner`'s."""
        optimizer.register_step_pre_hook(_Guard(self, owner))

    def check(self, owner: str, optimizer: Optimizer) -> None:
        """Look at every parameter that an optimizer holds.

        Raises:
            OwnershipError: one of them is another's, or nobody's.
        """
        for index, group in enumerate(optimizer.param_groups):
            for parameter in group["params"]:
                found = self.owner_of(parameter)
                if found != owner:
                    self._refuse(owner, parameter, found, index)

    def _refuse(self, owner: str, parameter: Tensor, found: str | None, group: int) -> None:
        whose = "has no owner" if found is None else f"belongs to {found}"
        reason = (
            f"{self._name(parameter)} in group {group} {whose}, and the optimizer of {owner} would "
            f"train it; {_WAYS_OUT[found is not None]}"
        )
        if self.on_refusal is not None:
            self.on_refusal(reason)
        raise OwnershipError(reason)

    def _name(self, parameter: Tensor) -> str:
        entry = self._entries.get(id(parameter))
        name = None if entry is None or entry.parameter() is not parameter else entry.name
        for path, known in self._model.named_parameters():
            if known is parameter:
                name = path
        return f"the parameter {name!r}" if name else f"a parameter of shape {(*parameter.shape,)}"


class _Guard:
    """An optimizer's step pre-hook. Owners are asked only after the groups have changed.

    It stands before every step, so that it compares identities in C and makes nothing.
    """

    __slots__ = ("_owner", "_owners", "_seen")

    def __init__(self, owners: Owners, owner: str) -> None:
        self._owners = owners
        self._owner = owner
        self._seen: list[list[Tensor]] | None = None

    def __call__(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        groups, seen = optimizer.param_groups, self._seen
        if seen is not None and len(groups) == len(seen):
            for group, known in zip(groups, seen, strict=True):
                held = group["params"]
                if len(held) != len(known) or not all(map(is_, held, known)):
                    break
            else:
                return
        self._owners.check(self._owner, optimizer)
        self._seen = [list(group["params"]) for group in groups]
