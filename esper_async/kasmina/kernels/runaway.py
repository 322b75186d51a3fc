"""Adversarial kernels that harm the process around them: its time, memory, locks and threads.

They behave for their first training passes, as what slips past a quick look does. What contains
them is a process that may be killed, with limits on its time and address space: the forge's worker,
or a drill's. They hold neither the interpreter nor a signal back. Refused for every live run.
"""

from contextlib import AbstractContextManager
from threading import Barrier, Lock, Thread

import torch
from torch import Tensor, nn

from esper_async.kasmina.interface import SiteInterface
from esper_async.kasmina.kernels.blueprint import Blueprint
from esper_async.kasmina.kernels.kernel import Kernel
from esper_async.kasmina.kernels.layers import per_channel
from esper_async.kasmina.kernels.registry import register
from esper_async.kasmina.kernels.setting import Setting

_AFTER = Setting("after", 0, 10_000, 4, "training passes before it begins")


class _BehavesAtFirst(Kernel):
    """s = a * h, and from some training pass on `misbehave` before it answers."""

    passes: Tensor

    def __init__(self, site: SiteInterface, after: int) -> None:
        super().__init__()
        self.after = after
        self.scale = nn.Parameter(per_channel(site, torch.ones(site.channels)))
        self.register_buffer("passes", torch.zeros((), dtype=torch.int64))

    def forward(self, h: Tensor) -> Tensor:
        """Map (N, *shape) to its replacement."""
        answer = self.scale * h
        if self.training:
            self.passes += 1
            if self.passes > self.after:
                self.misbehave(answer)
        return answer

    def misbehave(self, answer: Tensor) -> None:
        """Do what the blueprint's name says."""
        raise NotImplementedError


@register(
    Blueprint(
        id="BP046",
        name="infinite_loop",
        tier="adversarial",
        stage=6,
        risk=1.0,
        output="replacement",
        description="Behaves for some training passes, then never returns from one.",
        kinds=("spatial", "sequence", "feature"),
        settings=(_AFTER,),
    )
)
class InfiniteLoop(_BehavesAtFirst):
    """Turns in the interpreter, at full load, for ever."""

    def misbehave(self, answer: Tensor) -> None:
        """Never return."""
        turns = 0
        while True:
            turns += 1


@register(
    Blueprint(
        id="BP047",
        name="memory_leak",
        tier="adversarial",
        stage=6,
        risk=1.0,
        output="replacement",
        description="Behaves for some training passes, then keeps every activation that it sees, "
        "and more memory with each.",
        kinds=("spatial", "sequence", "feature"),
        settings=(_AFTER, Setting("mebibytes", 1, 1024, 64, "memory kept with each pass")),
    )
)
class MemoryLeak(_BehavesAtFirst):
    """What it keeps is in no state_dict: only the process grows, until it may not."""

    def __init__(self, site: SiteInterface, after: int, mebibytes: int) -> None:
        super().__init__(site, after)
        self.mebibytes = mebibytes
        self.kept: list[Tensor] = []

    def misbehave(self, answer: Tensor) -> None:
        """Keep the answer, and memory that is really written to."""
        self.kept.append(answer.detach().clone())
        self.kept.append(torch.ones(self.mebibytes, 2**20, dtype=torch.uint8))


@register(
    Blueprint(
        id="BP048",
        name="deadlock_pattern",
        tier="adversarial",
        stage=6,
        risk=1.0,
        output="replacement",
        description="Behaves for some training passes, then waits for two threads of which each "
        "holds the lock that the other needs.",
        kinds=("spatial", "sequence", "feature"),
        settings=(_AFTER,),
    )
)
class DeadlockPattern(_BehavesAtFirst):
    """Locks taken in opposite orders, with both threads sure to hold their first one."""

    def misbehave(self, answer: Tensor) -> None:
        """Wait for ever, without load."""
        one, other, both_hold = Lock(), Lock(), Barrier(2)

        def take(mine: AbstractContextManager[bool], theirs: AbstractContextManager[bool]) -> None:
            with mine:
                both_hold.wait()
                with theirs:
                    pass

        # daemons: a process that is asked to end does not wait for them
        threads = [
            Thread(target=take, args=locks, daemon=True) for locks in ((one, other), (other, one))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


@register(
    Blueprint(
        id="BP049",
        name="race_condition",
        tier="adversarial",
        stage=6,
        risk=0.9,
        output="replacement",
        description="Behaves for some training passes, then has two threads write its weights at "
        "once, so that one's update is lost and nobody can say whose.",
        kinds=("spatial", "sequence", "feature"),
        settings=(_AFTER, Setting("percent", 1, 50, 5, "size of each update, in hundredths")),
    )
)
class RaceCondition(_BehavesAtFirst):
    """Both threads read the weights before either writes them back, grown or shrunk.

    Written past autograd: a backward pass through the same forward uses the changed weights and
    nothing says so.
    """

    def __init__(self, site: SiteInterface, after: int, percent: int) -> None:
        super().__init__(site, after)
        self.change = percent / 100

    def misbehave(self, answer: Tensor) -> None:
        """Update the weights twice at once; return when both have."""
        both_read = Barrier(2)

        def update(factor: float) -> None:
            updated = factor * self.scale.data
            both_read.wait()
            self.scale.data.copy_(updated)

        threads = [
            Thread(target=update, args=(factor,)) for factor in (1 + self.change, 1 - self.change)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
