"""A training branch: a network with every optimizer that trains it.

The run has one; a trial adds a second, the twin, which goes on from the same instant without the
seed on trial. Withdrawing the seed means taking over the twin's state.
"""

import copy
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from esper_async.kasmina.compiling.region import Regions
from esper_async.kasmina.kernels.graft import attach, detach, grafts_of
from esper_async.kasmina.optimizer_state import load_optimizer
from esper_async.kasmina.ownership import HOST, Owners
from esper_async.kasmina.precision import Precision, unscale
from esper_async.kasmina.ranks import LOCAL, Ranks
from esper_async.kasmina.seed import Seed, owner_name


class Branch:
    """A network, the host's optimizer and those of the seeds that are in the forward pass.

    Whoever steps the host's optimizer steps the seeds' ones with it: they follow by a hook, so
    that accumulation and skipped steps hold for them too.

    Args:
        owners: of the model's parameters; without them all of it, and whatever else the optimizer
            trains by now, is the host's.

    Attributes:
        paused: the seeds in the forward pass that are not trained for now.
        regions: the parts of the network that are compiled, if any are.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        *,
        clip_norm: float,
        precision: Precision | None = None,
        ranks: Ranks = LOCAL,
        owners: Owners | None = None,
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        if owners is None:
            owners = Owners(model)
            owners.register(HOST, [*model.parameters(), *parameters_of(optimizer)])
        self.owners = owners
        self.owners.guard(HOST, optimizer)
        self.precision = precision or Precision()
        self.ranks = ranks
        self.seed_optimizers: dict[str, Optimizer] = {}
        self.seed_order: list[str] = []
        self._clip_norm = clip_norm
        self._settings_used: dict[str, list[dict[str, Any]]] = {}
        self._came_with = set(grafts_of(model))
        self.paused: set[str] = set()
        self.regions: Regions | None = None
        self._stepped = False
        self._trained_model: nn.Module | None = None
        self._synchronised = False
        self._hook = optimizer.register_step_post_hook(self._step_seeds)

    @property
    def trained_model(self) -> nn.Module:
        """What is called where the network is trained: the network, or its wrap for many ranks.

        The same object until a seed joins, leaves, or stops training.
        """
        if self._trained_model is None:
            wrap = self.ranks.wrap(self.model, synchronise=not self._synchronised)
            self._trained_model, self._synchronised = wrap, True
        return self._trained_model

    def _forget_wrap(self) -> None:
        if self._trained_model is not None:
            self.ranks.retire(self._trained_model)
            self._trained_model = None

    def _step_seeds(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self._stepped = True
        if not self.seed_order:
            return
        self._settings_used = {name: _scheduled(o) for name, o in self.optimizers().items()}
        scaler = self.precision.scaler(optimizer)
        for seed_id, seed_optimizer in self.seed_optimizers.items():
            sound = scaler is None or unscale(seed_optimizer, scaler)
            if sound and seed_id not in self.paused:
                clip_gradients(seed_optimizer, self._clip_norm)
                seed_optimizer.step()
            seed_optimizer.zero_grad(set_to_none=True)

    def settle(self) -> None:
        """End a step: where the host's was given up, the gradients of the seeds are dropped, too.

        It was given up if its gradients are gone, or are not finite, without a step; where they
        are sound they wait for more of them, or for a step to come.
        """
        if not self._stepped and self.seed_optimizers and not _has_sound_gradients(self.optimizer):
            for seed_optimizer in self.seed_optimizers.values():
                seed_optimizer.zero_grad(set_to_none=True)
        self._stepped = False

    def own(self, seed: Seed) -> None:
        """Let a seed own its kernel's parameters, and its optimizer step no others.

        Its place is named, if it has no name yet: the host may have an attribute like it, as one
        that was grown before has.
        """
        seed.attribute = seed.attribute or self._free_name(seed)
        place = f"{seed.site.path}.{seed.attribute}"
        named = {f"{place}.{name}": p for name, p in seed.graft.named_parameters()}
        self.owners.register(seed.owner, named)
        if seed.optimizer is not None:
            self.owners.guard(seed.owner, seed.optimizer)

    def grafts_named(self, attribute: str) -> list[str]:
        """Return where in the network grafts of that name are, but for those it came with."""
        names = grafts_of(self.model).keys() - self._came_with
        return [name for name in names if name.rpartition(".")[2] == attribute]

    def _free_name(self, seed: Seed) -> str:
        site, name, count = self.model.get_submodule(seed.site.path), f"esper_{seed.id}", 1
        free = name
        while hasattr(site, free):
            count += 1
            free = f"{name}_{count}"
        return free

    def attach(self, seed: Seed) -> None:
        """Join a seed to the network: forward pass, module tree and optimizer."""
        self._forget_wrap()
        attach(self.model.get_submodule(seed.site.path), seed.graft, seed.attribute)
        self._regrown(seed, "joined")
        self.seed_order.append(seed.id)
        if seed.optimizer is not None:
            self.seed_optimizers[seed.id] = seed.optimizer

    def detach(self, seed: Seed) -> None:
        """Take a seed out of the network, its optimizer state with it."""
        self._forget_wrap()
        detach(self.model.get_submodule(seed.site.path), seed.attribute)
        self._regrown(seed, "left")
        self.seed_order.remove(seed.id)
        self.seed_optimizers.pop(seed.id, None)

    def _regrown(self, seed: Seed, what: str) -> None:
        if self.regions is not None:
            self.regions.adapt(f"seed {seed.id} {what}")

    def freeze(self, seed: Seed) -> None:
        """Stop training a seed that stays in the network."""
        self._forget_wrap()
        self.seed_optimizers.pop(seed.id, None)
        seed.optimizer = None
        for parameter in seed.graft.parameters():
            parameter.requires_grad_(False)

    def copy(self) -> "Branch":
        """Return an independent branch in the same state; nothing is shared but hyper-parameters.

        Raises:
            RuntimeError, TypeError: the model or its optimizer cannot be copied.
        """
        memo = _empty_registries(self.model)
        model = copy.deepcopy(self.model, memo)
        optimizer = copy.deepcopy(self.optimizer, memo)
        twin = Branch(
            model,
            optimizer,
            clip_norm=self._clip_norm,
            precision=self.precision,
            ranks=self.ranks,
            owners=self.owners.copied(model, memo),
        )
        if self.regions is not None:
            twin.regions = self.regions.copied(model)
        twin._synchronised = True  # as equal on all ranks as this one
        self.precision.follow(optimizer, self.optimizer)
        for seed_id, seed_optimizer in self.seed_optimizers.items():
            twin.seed_optimizers[seed_id] = copy.deepcopy(seed_optimizer, memo)
            twin.owners.guard(owner_name(seed_id), twin.seed_optimizers[seed_id])
        twin.seed_order = list(self.seed_order)
        return twin

    def follow_schedule(self, other: "Branch") -> None:
        """Set what schedules change to what `other` used for the same group at its last step.

        Not to what it has now: that may be the next step's already.
        """
        for name, optimizer in self.optimizers().items():
            used = other._settings_used.get(name)
            if used is not None:
                for group, settings in zip(optimizer.param_groups, used, strict=True):
                    group.update(settings)

    def optimizers(self) -> dict[str, Optimizer]:
        """Return the host's optimizer and those of the seeds, by name."""
        return {"host": self.optimizer, **self.seed_optimizers}

    def adopt(self, other: "Branch") -> None:
        """Take over weights, buffers and optimizer state of `other`, in place.

        The two must have the same topology. `other` must not be used afterwards: its optimizer
        state is moved, not copied. Learning rates stay.
        """
        mine = dict(self.model.named_parameters())
        theirs = dict(other.model.named_parameters())
        buffers = dict(self.model.named_buffers())
        with torch.no_grad():
            for name, parameter in mine.items():
                parameter.copy_(theirs[name])
                parameter.grad = None
            for name, buffer in other.model.named_buffers():
                buffers[name].copy_(buffer)
        _move_state(other.optimizer, self.optimizer)
        self.precision.follow(self.optimizer, other.optimizer)
        for seed_id, seed_optimizer in self.seed_optimizers.items():
            _move_state(other.seed_optimizers[seed_id], seed_optimizer)

    def close(self) -> None:
        """Stop following the host's optimizer."""
        self._hook.remove()
        if self.regions is not None:
            self.regions.close()

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the network and of its optimizers; tensors are shared, not copied."""
        return {
            "model": dict(self.model.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "seed_optimizers": {
                key: optimizer.state_dict() for key, optimizer in self.seed_optimizers.items()
            },
            "scaler": self.precision.state_of(self.optimizer),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state by copying; the topology must be the same already."""
        self.model.load_state_dict(state["model"], strict=True)
        load_optimizer(self.optimizer, state["optimizer"])
        for key, saved in state["seed_optimizers"].items():
            load_optimizer(self.seed_optimizers[key], saved)
        self.precision.load_state_of(self.optimizer, state["scaler"])


_SCHEDULED = ("lr", "momentum", "betas", "weight_decay")


def _empty_registries(model: nn.Module) -> dict[int, Any]:
    """Return a memo for `copy.deepcopy` with copies of a model's empty registries of hooks.

    A module has eleven of them, and to copy one takes as long as to copy a small tensor.
    """
    return {
        id(registry): OrderedDict()
        for module in model.modules()
        for registry in vars(module).values()
        if type(registry) is OrderedDict and not registry
    }


def _scheduled(optimizer: Optimizer) -> list[dict[str, Any]]:
    return [
        {name: group[name] for name in _SCHEDULED if name in group}
        for group in optimizer.param_groups
    ]


def parameters_of(optimizer: Optimizer) -> list[Tensor]:
    """Return the parameters that an optimizer trains."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def clip_gradients(optimizer: Optimizer, limit: float) -> None:
    """Scale the gradients of an optimizer's parameters to a total norm of at most `limit`."""
    torch.nn.utils.clip_grad_norm_(parameters_of(optimizer), limit)


def _has_sound_gradients(optimizer: Optimizer) -> bool:
    gradients = [p.grad for p in parameters_of(optimizer) if p.grad is not None]
    return bool(gradients) and all(bool(torch.isfinite(g).all()) for g in gradients)


def _move_state(source: Optimizer, target: Optimizer) -> None:
    for theirs, mine in zip(source.param_groups, target.param_groups, strict=True):
        for from_parameter, to_parameter in zip(theirs["params"], mine["params"], strict=True):
            state: dict[str, Tensor] = source.state.pop(from_parameter, {})
            if state:
                target.state[to_parameter] = state
            else:
                target.state.pop(to_parameter, None)
