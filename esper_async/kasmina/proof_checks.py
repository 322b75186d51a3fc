"""What must hold of every kernel. Each check returns what is wrong, in words.

They are run in this order, on one kernel, and the later ones rely on the earlier: a change starts
at zero, so that mixing samples or seeing the future shows only once it has been trained a little.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from math import isfinite

import torch
from torch import Tensor

from esper_async.kasmina.interface import SiteInterface
from esper_async.kasmina.kernels import Kernel

GRADIENT_STEPS = 20
START_LIMIT = {"change": 0.01, "replacement": 0.25}
_STEP_SIZE = 1e-2


@dataclass(slots=True)
class Subject:
    """The kernel under proof, a batch of activations for it, and how to make another like it."""

    kernel: Kernel
    site: SiteInterface
    batch: Tensor
    target: Tensor
    rebuild: Callable[[int], Kernel]
    reseed: Callable[[], None]
    found: dict[str, float] = field(default_factory=dict)

    def answer(self, h: Tensor) -> Tensor:
        """Run the kernel with its random stream at its beginning."""
        self.reseed()
        return self.kernel(h)  # type: ignore[no-any-return]

    def loss(self) -> Tensor:
        """Return a loss of the activation with the kernel's full part in it."""
        answer: Tensor = self.kernel(self.batch)
        if self.kernel.output == "change":
            answer = self.batch + answer
        loss: Tensor = (answer.float() - self.target.float()).square().mean()
        return loss


def check_contract(subject: Subject) -> list[str]:
    """The same shape, dtype and device come out, for any batch size; the input is left alone."""
    wrong = []
    for training in (True, False):
        subject.kernel.train(training)
        for count in (1, len(subject.batch)):
            h = subject.batch[:count].clone()
            answer = subject.answer(h)
            if not isinstance(answer, Tensor):
                return [f"returns a {type(answer).__name__}, not a tensor"]
            for name in ("shape", "dtype", "device"):
                is_, should = getattr(answer, name), getattr(h, name)
                if is_ != should:
                    wrong.append(f"returns {name} {is_} for {should}")
            if not torch.equal(h, subject.batch[:count]):
                wrong.append("writes into its input")
    subject.kernel.train()
    return sorted(set(wrong))


def check_determinism(subject: Subject) -> list[str]:
    """One seed gives one set of weights, and one random state one answer, bit for bit."""
    wrong = []
    state, again = subject.rebuild(0).state_dict(), subject.rebuild(0).state_dict()
    differing = [name for name in state if not torch.equal(state[name], again[name])]
    if differing:
        wrong.append(f"two builds with one seed differ in {', '.join(differing)}")
    if not torch.equal(subject.answer(subject.batch), subject.answer(subject.batch)):
        wrong.append("two forwards from one random state differ")
    return wrong


def check_start(subject: Subject) -> list[str]:
    """A change starts at zero, a replacement near the activation, relative to its norm."""
    with torch.no_grad():
        answer = subject.answer(subject.batch).float()
    start = answer if subject.kernel.output == "change" else answer - subject.batch.float()
    distance = (start.norm() / subject.batch.float().norm()).item()
    if isfinite(distance):
        subject.found["start_distance"] = distance
    limit = START_LIMIT[subject.kernel.output]
    if subject.kernel.blueprint.start_exemption is not None or distance <= limit:
        return []
    return [f"starts {distance:.3g} of the activation away, more than {limit} for its kind"]


def check_gradients(subject: Subject) -> list[str]:
    """Every tensor receives a finite gradient, not zero, within the first steps of training."""
    waiting = dict(subject.kernel.named_parameters())
    if not waiting:
        exempt = subject.kernel.blueprint.gradient_exemption is not None
        return [] if exempt else ["has no parameters and declares no exemption"]
    for step in range(1, GRADIENT_STEPS + 1):
        subject.kernel.zero_grad()
        subject.loss().backward()  # type: ignore[no-untyped-call]
        gradients = {n: p.grad for n, p in subject.kernel.named_parameters() if p.grad is not None}
        broken = [name for name, grad in gradients.items() if not grad.isfinite().all()]
        if broken:
            return [f"has a gradient that is not finite in {', '.join(broken)} at step {step}"]
        waiting = {n: p for n, p in waiting.items() if n not in gradients or not gradients[n].any()}
        _step(gradients, subject.kernel)
        if not waiting:
            subject.found["gradient_steps"] = step
        if not waiting and step >= 3:
            return []
    if subject.kernel.blueprint.gradient_exemption is not None:
        return []
    return [f"has had no gradient in {', '.join(waiting)} after {GRADIENT_STEPS} steps"]


def _step(gradients: dict[str, Tensor], kernel: Kernel) -> None:
    """Move every weight a little against the sign of its gradient."""
    with torch.no_grad():
        for name, parameter in kernel.named_parameters():
            if name in gradients:
                parameter.sub_(gradients[name].sign(), alpha=_STEP_SIZE)


def check_numerics(subject: Subject) -> list[str]:
    """Answers and gradients stay finite for silent, constant and very large activations."""
    wrong = []
    ones = torch.ones_like(subject.batch)
    for name, h in (("zero", 0 * ones), ("constant", ones), ("large", 1e3 * subject.batch)):
        h = h.requires_grad_()
        answer = subject.answer(h)
        tensors = [h, *subject.kernel.parameters()]
        gradients = (
            torch.autograd.grad(answer.float().sum(), tensors, allow_unused=True)
            if answer.requires_grad
            else ()
        )
        if not answer.isfinite().all():
            wrong.append(f"answers {name} activations with what is not finite")
        elif not all(grad is None or grad.isfinite().all() for grad in gradients):
            wrong.append(f"has gradients that are not finite for {name} activations")
    return wrong


def check_samples_apart(subject: Subject) -> list[str]:
    """In evaluation no sample's answer depends on the others of its batch."""
    subject.kernel.eval()
    with torch.no_grad():
        together = subject.answer(subject.batch)
        random = not torch.equal(together, subject.kernel(subject.batch))
        alone = subject.answer(subject.batch[:1])
    subject.kernel.train()
    if random or _close(alone, together[:1]):
        return []
    return ["mixes the samples of a batch"]


def check_causality(subject: Subject) -> list[str]:
    """On a sequence no position's answer depends on what comes after it."""
    if subject.site.kind != "sequence" or subject.site.shape[0] < 2:
        return []
    past = subject.site.shape[0] // 2
    changed = subject.batch.clone()
    changed[:, past:] = changed[:, past:].flip(0) * 2 + 1
    with torch.no_grad():
        before, after = subject.answer(subject.batch), subject.answer(changed)
    if _close(before[:, :past], after[:, :past]):
        return []
    return ["lets a position of the sequence see what comes after it"]


def check_round_trip(subject: Subject) -> list[str]:
    """A deep copy, and a kernel from another seed with this one's state, give the same answer."""
    wrong = []
    device = subject.batch.device
    other = subject.rebuild(1).to(device)
    other.load_state_dict(subject.kernel.state_dict(), strict=True)
    with torch.no_grad():
        answer = subject.answer(subject.batch)
        for name, twin in (("state_dict", other), ("deepcopy", copy.deepcopy(subject.kernel))):
            subject.reseed()
            if not torch.equal(twin(subject.batch), answer):
                wrong.append(f"answers differently after a {name} round trip")
    return wrong


def _close(one: Tensor, other: Tensor) -> bool:
    loose = one.dtype in (torch.bfloat16, torch.float16)
    tolerance = 2e-2 if loose else 1e-4
    return torch.allclose(one, other, rtol=tolerance, atol=tolerance)


CHECKS = (
    check_contract,
    check_determinism,
    check_start,
    check_gradients,
    check_numerics,
    check_samples_apart,
    check_causality,
    check_round_trip,
)
