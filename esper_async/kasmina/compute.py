"""Counting multiply-accumulates: what host, shadow passes, judging and twins cost, measured."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from esper_async.kasmina.call import Call, Forward, cloned_buffers, first_batch_size
from esper_async.kasmina.evaluation import Loss, Variant
from esper_async.kasmina.micro_batches import parts_of, step_size
from esper_async.kasmina.random_state import RandomStream, fresh_stream
from esper_async.kasmina.user_code import blaming


def count_macs(work: Callable[[], object]) -> int:
    """Do some work and return the multiply-accumulates of its matrix products and convolutions."""
    with FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops()) // 2


class _Everywhere:
    """Stands for the counter's tracker of modules, which fails on a kernel without gradients."""

    def __init__(self) -> None:
        self.parents = {"Global"}

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass


def _forward_macs(work: Callable[[], object]) -> int:
    """Do a forward pass without gradients and return its multiply-accumulates."""
    counter = FlopCounterMode(display=False)
    counter.mod_tracker = _Everywhere()  # type: ignore[assignment]
    with counter:
        work()
    return int(counter.get_total_flops()) // 2


def training_macs(model: nn.Module, forward: Forward, batch: Any, loss: Loss) -> float:
    """Return the multiply-accumulates a sample of one forward and backward pass.

    The network's gradients, buffers and mode and the global random state are untouched.
    """
    parameters = {
        name: p.detach().requires_grad_(p.requires_grad) for name, p in model.named_parameters()
    }
    learning = [tensor for tensor in parameters.values() if tensor.requires_grad]
    tensors = parameters | cloned_buffers(model)

    def pass_through() -> None:
        output, target = Call(model, forward).with_tensors(tensors, batch)
        with blaming("loss"):
            value = loss(output, target)
        if value.requires_grad:  # else nothing of the host is trained
            with blaming("loss.backward"):
                torch.autograd.grad(value, learning, allow_unused=True)

    with RandomStream(fresh_stream("count")).active(), torch.enable_grad():  # type: ignore[no-untyped-call]
        return count_macs(pass_through) / first_batch_size(batch)


class ComputeAccount:
    """What a run has spent, in multiply-accumulates.

    On its host, in shadow passes, on measuring candidates on the decision split, and on twins.

    Costs a sample are measured once for each topology of the host, and once for each seed or set of
    seeds that learn in one pass.
    """

    def __init__(self, model: nn.Module, forward: Forward, loss: Loss) -> None:
        self.host_macs = 0.0
        self.shadow_macs = 0.0
        self.twin_macs = 0.0
        self.judging_macs = 0.0
        self.shadow_passes = 0
        self.twin_steps = 0
        self._model = model
        self._forward = forward
        self._loss = loss
        self._a_sample: dict[str, float] = {}

    @property
    def shadow_cost_ratio(self) -> float | None:
        """What shadow passes have cost for each operation of the host; None before its first."""
        return self.shadow_macs / self.host_macs if self.host_macs else None

    def spent(self) -> tuple[float, float]:
        """Return what the host has cost so far, and what growing has: shadows, judging, twins."""
        return self.host_macs, self.shadow_macs + self.judging_macs + self.twin_macs

    def host_step(self, batch: Any) -> None:
        """Bill one training step of the host."""
        if "host" not in self._a_sample:
            first = parts_of(batch)[0]
            self._a_sample["host"] = training_macs(self._model, self._forward, first, self._loss)
        self.host_macs += step_size(batch) * self._a_sample["host"]

    def twin_step(self, batch: Any) -> None:
        """Bill one training step of the twin, which costs what the host did before the blend."""
        self.twin_steps += 1
        self.twin_macs += step_size(batch) * self._a_sample["twin"]

    def shadow_pass(self, seed_ids: Sequence[str], batch: Any, work: Callable[[], object]) -> None:
        """Do and bill one shadow pass of a seed, or of several that learn in one.

        What those share is computed, and billed, once.
        """
        size, name = step_size(batch), " ".join(seed_ids)
        if name in self._a_sample:
            work()
        else:
            self._a_sample[name] = count_macs(work) / size
        self.shadow_passes += len(seed_ids)
        self.shadow_macs += size * self._a_sample[name]

    def judging(self, seed_id: str, variant: Variant) -> Variant:
        """Return a variant that bills what it costs to measure a candidate on the decision split.

        The host's own evaluation is no part of it. The first pass takes longer: it is counted.
        """

        def billed(batch: Any) -> tuple[Tensor, Tensor]:
            found: list[tuple[Tensor, Tensor]] = []
            size, name = first_batch_size(batch), f"{seed_id} judged"
            if name in self._a_sample:
                found.append(variant(batch))
            else:
                self._a_sample[name] = _forward_macs(lambda: found.append(variant(batch))) / size
            self.judging_macs += size * self._a_sample[name]
            return found[0]

        return billed

    def trial_started(self) -> None:
        """The host's topology changes, and the twin keeps the present one."""
        self._a_sample["twin"] = self._a_sample.pop("host", 0.0)

    def seed_removed(self, seed_id: str) -> None:
        """The seed is gone; the host is as it was unless the trial was withdrawn with it."""
        for name in [name for name in self._a_sample if seed_id in name.split()]:
            del self._a_sample[name]

    def trial_withdrawn(self) -> None:
        """The host's topology is what it was before the trial."""
        self._a_sample.pop("host", None)

    def state_dict(self) -> dict[str, Any]:
        """Return the sums and the costs measured so far."""
        return {
            "sums": {name: getattr(self, name) for name in _SUMS},
            "a_sample": dict(self._a_sample),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        for name, value in state["sums"].items():
            setattr(self, name, value)
        self._a_sample = dict(state["a_sample"])


_SUMS = ("host_macs", "shadow_macs", "judging_macs", "twin_macs", "shadow_passes", "twin_steps")
