"""The batches that a model is called on: what a callback that is told of no batch looks at."""

from typing import Any, Self

from torch import nn
from torch.utils.hooks import RemovableHandle

_OF_THE_WHOLE_STEP = ("num_items_in_batch",)  # a count over all batches of a step, not of one


class SeenBatches:
    """Notes the keyword arguments of a model's calls while it is open and the model trains.

    It is the model's hook and so part of every copy of the model, a twin's for instance; a copy
    shares it, and is called only while it is closed.
    """

    def __init__(self) -> None:
        self._batches: list[dict[str, Any]] = []
        self._open = False
        self._handle: RemovableHandle | None = None

    def follow(self, model: nn.Module) -> None:
        """Watch a model, and no other any more."""
        self.leave()
        self._handle = model.register_forward_pre_hook(self, with_kwargs=True)

    def leave(self) -> None:
        """Watch no model."""
        if self._handle is not None:
            self._handle.remove()
        self._handle = None
        self.close()
        self._batches = []

    def open(self) -> None:
        """Begin to note."""
        self._open = True

    def close(self) -> None:
        """End noting; what was noted stays."""
        self._open = False

    def take(self) -> list[dict[str, Any]]:
        """Return what was noted since the last call, a batch each."""
        taken, self._batches = self._batches, []
        return taken

    def __call__(self, model: nn.Module, args: tuple[Any, ...], batch: dict[str, Any]) -> None:
        """Note a call, as the model's hook."""
        if self._open and model.training:
            self._batches.append(
                {name: value for name, value in batch.items() if name not in _OF_THE_WHOLE_STEP}
            )

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return itself."""
        return self
