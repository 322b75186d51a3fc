"""Distillation: a frozen teacher from whose soft targets a seed in the shadow learns, too.

After Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network" (2015), section 2:
with both networks' logits z divided by a temperature T, q = softmax(z / T), the loss is
(1 - w) * loss(output, target) + w * T^2 * KL(q_teacher || q_seed); T^2 keeps the size of the soft
part's gradients when T changes. Nobody else's loss has a teacher in it: not the host's, not the
twin's, not an evaluation's.
"""

from hashlib import sha256
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper_async.kasmina.call import Call, Forward, run_forward
from esper_async.kasmina.evaluation import Loss, SampleLoss
from esper_async.kasmina.modes import evaluation_mode
from esper_async.kasmina.options import GrowthOptions
from esper_async.kasmina.ownership import Owners
from esper_async.kasmina.snapshot import bytes_in
from esper_async.kasmina.user_code import UserCodeError

TEACHER = "the teacher"
_MB = 1e6


class TeacherRefusedError(ValueError):
    """A teacher cannot be used; the message says why, and what would be right."""


class Taught(NamedTuple):
    """A batch's target, with the teacher's log-probabilities for it."""

    target: Any
    soft: Tensor


class Teacher:
    """A trained network that answers and never changes.

    It is put into evaluation mode and asks for no gradient from now on.

    Args:
        model: it takes the host's batches and gives logits of the host's shape.
        forward: the host's own forward function.
        weight: of the soft targets in the loss, between 0 and 1.
        temperature: how soft they are; at 1 they are the teacher's own probabilities.
        class_dim: the dimension of the logits that runs over the classes.

    Attributes:
        digest: tells a teacher from others, once it is employed.
    """

    def __init__(
        self,
        model: nn.Module,
        forward: Forward,
        *,
        weight: float,
        temperature: float,
        class_dim: int = 1,
    ) -> None:
        self.model = model
        self._forward = forward
        self._weight = weight
        self._temperature = temperature
        self._dim = class_dim
        self.digest = ""

    @classmethod
    def of(
        cls, model: nn.Module, forward: Forward, loss: SampleLoss, options: GrowthOptions
    ) -> "Teacher":
        """Return a run's teacher; PyTorch's own losses have the classes next to the batch."""
        return cls(
            model,
            forward,
            weight=options.teacher_weight,
            temperature=options.teacher_temperature,
            class_dim=1 if loss.in_nats else -1,
        )

    @property
    def bytes(self) -> int:
        """What its parameters and buffers take."""
        return bytes_in([*self.model.parameters(), *self.model.buffers()])

    def employ(self, owners: Owners, device: torch.device, *, budget_bytes: int) -> "Teacher":
        """Move it to its device, freeze it, let nobody train its parameters, and return it.

        Raises:
            TeacherRefusedError: it takes more memory than growth may.
            OwnershipError: it shares a parameter with the host, or the host's optimizer trains it.
        """
        if self.bytes > budget_bytes:
            raise TeacherRefusedError(
                f"the teacher takes {self.bytes / _MB:.1f} MB, and growth may take "
                f"{budget_bytes / _MB:.1f} MB; use a smaller teacher, or none"
            )
        owners.register(TEACHER, dict(self.model.named_parameters()))
        self.model.to(device).eval().requires_grad_(False)
        owners.register(TEACHER, dict(self.model.named_parameters()))  # moving may have made others
        self.digest = self._digest()
        return self

    def taught(self, model: nn.Module) -> Call:
        """Return the host's call, whose targets are `Taught`."""
        return Call(model, self._taught_forward)

    def mixed(self, loss: Loss) -> Loss:
        """Return the loss of an output and a `Taught` target."""

        def of(output: Tensor, target: Taught) -> Tensor:
            return self._mixed(loss(output, target.target), output, target.soft)

        return of

    def _mixed(self, hard: Tensor, output: Tensor, soft: Tensor) -> Tensor:
        _check_shapes(soft, output)
        apart = soft.exp() * (soft - self._softened(output))  # torch 2.8 cannot map its kl_div
        softened = self._temperature**2 * apart.sum(dim=self._dim).mean()
        return (1.0 - self._weight) * hard + self._weight * softened

    def _taught_forward(self, model: nn.Module, batch: Any) -> tuple[Tensor, Any]:
        output, target = self._forward(model, batch)
        return output, Taught(target, self._soft(batch))

    def _soft(self, batch: Any) -> Tensor:
        """Return its answer (N, C, ...) to a batch."""
        with torch.no_grad():
            return self._softened(_answer(self.model, self._forward, batch))

    def _softened(self, output: Tensor) -> Tensor:
        return F.log_softmax(output.float() / self._temperature, dim=self._dim)

    def _digest(self) -> str:
        """Return a hash of its weights and of how it teaches."""
        found = sha256(repr((self._weight, self._temperature, self._dim)).encode())
        for name, tensor in sorted(self.model.state_dict().items()):
            found.update(f"{name} {tensor.dtype} {(*tensor.shape,)}".encode())
            whole = tensor.detach().cpu().contiguous().reshape(-1)
            found.update(whole.view(torch.uint8).numpy().tobytes())
        return found.hexdigest()


def lessons(teacher: Teacher | None, call: Call, loss: Loss) -> tuple[Call, Loss]:
    """Return how the host is called and what its loss is where seeds learn."""
    return (call, loss) if teacher is None else (teacher.taught(call.model), teacher.mixed(loss))


def check_same(teacher: Teacher | None, digest: str | None) -> None:
    """Refuse to go on with another teacher than the one of the saved state.

    Raises:
        TeacherRefusedError: it is another, or there was none, or there is none now.
    """
    present = None if teacher is None else teacher.digest
    if present != digest:
        had = "none" if digest is None else f"the one with the digest {digest[:12]}"
        has = "none" if present is None else f"one with {present[:12]}"
        raise TeacherRefusedError(
            f"the saved run had {had} as its teacher, and this one has {has}; go on with the same "
            f"weights, weight and temperature"
        )


def check_answers(model: nn.Module, forward: Forward, batch: Any, output: Tensor) -> None:
    """Try a teacher on a batch for which the host gave `output`; its modes stay as they are.

    Raises:
        TeacherRefusedError: it answers with another shape.
        UserCodeError: it raised.
    """
    with torch.no_grad(), evaluation_mode([model]):
        _check_shapes(_answer(model, forward, batch), output)


def _answer(model: nn.Module, forward: Forward, batch: Any) -> Tensor:
    try:
        output, _ = run_forward(forward, model, batch)
    except UserCodeError as error:
        raise UserCodeError("teacher", error.__cause__ or error) from error
    return output


def _check_shapes(answer: Tensor, output: Tensor) -> None:
    if output.shape != answer.shape:
        raise TeacherRefusedError(
            f"the teacher answers with logits of shape {(*answer.shape,)}, the host with "
            f"{(*output.shape,)}; they must be the same"
        )
