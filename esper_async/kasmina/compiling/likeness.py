"""Modules that are alike, so that one program serves them all: the blocks of a transformer, say."""

from collections.abc import Hashable
from typing import Any

from torch import nn

_OF_EVERY_MODULE = frozenset(vars(nn.Module()))
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_PLAIN = (bool, int, float, str, type(None))


def likeness(module: nn.Module) -> Hashable:
    """Return what is the same for modules that differ in the values of their tensors alone.

    A module with hooks inside is like no other. Attributes are compared as dynamo guards them:
    numbers, texts and tuples of them by value, other objects by identity.
    """
    parts = list(module.named_modules())
    if any(getattr(part, hooks) for _, part in parts for hooks in _HOOKS):
        return id(module)
    tensors = [*module.named_parameters(), *module.named_buffers()]
    return (
        tuple((name, type(part), _attributes(part)) for name, part in parts),
        tuple((name, tuple(t.shape), t.stride(), t.dtype, t.requires_grad) for name, t in tensors),
    )


def _attributes(module: nn.Module) -> tuple[tuple[str, Hashable], ...]:
    own = {k: v for k, v in vars(module).items() if k not in _OF_EVERY_MODULE}
    return tuple((name, _comparable(value)) for name, value in sorted(own.items()))


def _comparable(value: Any) -> Hashable:
    if isinstance(value, tuple):
        return tuple(map(_comparable, value))
    return (type(value), value) if isinstance(value, _PLAIN) else id(value)
