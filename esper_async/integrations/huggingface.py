"""Growth under the Trainer of transformers: `Trainer(callbacks=[GrowerCallback()])`.

A boundary is where the trainer has evaluated; growth decides on the trainer's own evaluation data.
Each checkpoint folder holds the grower's state beside the trainer's, and
`trainer.train(resume_from_checkpoint=...)` with a fresh model goes on from it to the bit.
"""

import io
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from esper_async.integrations.errors import MissingPackageError, UnsupportedLoopError
from esper_async.integrations.loop_growth import LoopGrowth
from esper_async.integrations.seen_batches import SeenBatches
from esper_async.integrations.twin_step import Clip
from esper_async.kasmina.evaluation import Loss
from esper_async.kasmina.precision import PrecisionName
from esper_async.runtime.files import write_atomically
from esper_async.runtime.tensor_file import read_tensors
from esper_async.tolaria.boundary_report import BoundaryReport
from esper_async.tolaria.grower import Grower

try:
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
    from transformers.training_args import ParallelMode
except ModuleNotFoundError as missing:
    raise MissingPackageError("transformers", "huggingface") from missing

STATE_FILE = "esper.pt"
"""The grower's state in the folder of a checkpoint."""


class GrowerCallback(TrainerCallback):
    """Grows the model that a trainer trains.

    The loss is the model's own, from `model(**batch)`, and seeds are judged batch by batch, so that
    the evaluation set should make at least half a dozen batches. With `forward` and `loss` of yours
    (logits, labels and a cross-entropy, say) they are judged sample by sample.

    A seed on trial is judged against a twin that is trained on the same batches with that loss,
    clipped as the trainer clips. Where a trainer of yours does more than that in a step, give a
    `train_step=(model, optimizer, batch) -> loss` that does it, too, or None for no twin.

    Args:
        loss: `loss(output, target)` of what `forward` returns; the model's own if None.
        forward: `(model, batch) -> (output, target)` on batches of the trainer's, which are
            dictionaries; the model's output and `batch["labels"]` if None.
        resume_from: the checkpoint folder whose growth a resumed run goes on with; "auto" is the
            one of its step in `output_dir`, None begins to grow now.
        options: further keyword arguments of `Grower`, such as policy, seed and growth. Precision
            and gradient scaler are the trainer's.

    Raises:
        TypeError: `Grower` has no such argument, or the trainer decides it.
        UnsupportedLoopError: when training starts, if the trainer is set to do what growth cannot
            follow.
    """

    def __init__(
        self,
        *,
        loss: Loss | None = None,
        resume_from: str | Path | Literal["auto"] | None = "auto",
        **options: Any,
    ) -> None:
        options.setdefault("forward", model_output)
        self._growth = LoopGrowth(loss or own_loss, options)
        self._resume_from = resume_from
        self._seen = SeenBatches()
        self._training = False
        self._judged_on: Iterable[Any] | None = None

    @property
    def grower(self) -> Grower | None:
        """The grower of the present or last training; None before the first."""
        return self._growth.grower

    @property
    def reports(self) -> list[BoundaryReport]:
        """What happened at each boundary of this training."""
        return self._growth.reports

    # -- the loop ------------------------------------------------------------------------------

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **parts: Any,
    ) -> None:
        """Refuse what cannot be followed; make the grower, or take it up from a checkpoint."""
        model, wrapper = parts["model"], parts["optimizer"]  # the wrapper is accelerate's
        _refuse_unsupported(args, state, model)
        optimizer = getattr(wrapper, "optimizer", wrapper)
        self._growth.start(
            model,
            optimizer,
            precision=_precision(args),
            scaler=getattr(wrapper, "scaler", None) if args.fp16 else None,
            clip=_clip(args),
            divisor=lambda count: count,
            boundaries=_boundaries(args, state),
            saved=self._saved(args, state, optimizer),
        )
        self._seen.follow(model)
        self._training, self._judged_on = True, None

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Begin to note the batches of an optimizer step."""
        self._seen.open()

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """End it: what the model is called on from here to the next step is no training batch."""
        self._seen.close()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Go on by an optimizer step."""
        self._growth.after_step(self._seen.take())

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **parts: Any,
    ) -> None:
        """Decide, grow, advance; of several evaluation sets on the first."""
        if self._training and self._growth.is_due(state.global_step):
            self._judged_on = parts["eval_dataloader"]
            self._growth.boundary(self._judged_on, step=state.global_step)

    def on_train_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **_: Any,
    ) -> None:
        """End growth: the network is what was kept."""
        self._training = False
        self._seen.leave()
        if self._judged_on is not None:  # else it ended before the first evaluation
            self._growth.finish(self._judged_on)

    # -- checkpoints ---------------------------------------------------------------------------

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Put the grower's state into the folder of the checkpoint just written.

        Raises:
            OSError: the disk refused.
        """
        content = io.BytesIO()
        torch.save(self._growth.state_dict(), content)
        write_atomically(_checkpoint(args, state) / STATE_FILE, content.getvalue())

    def _saved(
        self, args: TrainingArguments, state: TrainerState, optimizer: Optimizer
    ) -> Mapping[str, Any] | None:
        """Return the state that a resumed training goes on from; None where growth begins."""
        if state.global_step == 0 or self._resume_from is None:
            return None
        auto = self._resume_from == "auto"
        path = (_checkpoint(args, state) if auto else Path(self._resume_from)) / STATE_FILE
        if not path.is_file():
            raise UnsupportedLoopError(
                f"training resumes at step {state.global_step}, but there is no {path}; if it grew "
                f"before, name its checkpoint folder with GrowerCallback(resume_from=...), else "
                f"begin to grow now with resume_from=None"
            )
        saved: dict[str, Any] = read_tensors(path)
        if not _was_saved_with(optimizer, saved["grower"]):
            raise UnsupportedLoopError(
                f"{path} is not of the checkpoint that training resumes from: the optimizer is in "
                f"another state; name the right folder with GrowerCallback(resume_from=...)"
            )
        return saved


def model_output(model: nn.Module, batch: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return the output of a transformers model on a batch, and the batch's labels.

    Under mixed precision accelerate wraps the model's `forward` in autocast and keeps the original;
    growth calls that one, since it evaluates in single precision.
    """
    run = getattr(model, "_original_forward", model.forward)
    return run(**batch), batch.get("labels")


def own_loss(output: Mapping[str, Any], target: Any) -> Tensor:
    """Return the loss () that a transformers model computed itself.

    Raises:
        ValueError: it computed none.
    """
    loss = output.get("loss")
    if not isinstance(loss, Tensor):
        raise ValueError(
            f"the model returned no loss, but {sorted(output)}; let it compute its loss from the "
            f"batch (the Trainer's compute_loss_func takes the labels away), or give "
            f"GrowerCallback a forward= and a loss="
        )
    return loss


def _refuse_unsupported(args: TrainingArguments, state: TrainerState, model: nn.Module) -> None:
    """Name the first setting that growth cannot follow, and what to set instead."""
    several = args.parallel_mode is not ParallelMode.NOT_PARALLEL or args.deepspeed or args.fsdp
    refused = {
        "more than one device or process": (several, "train in one process on one device"),
        "a search of hyper-parameters": (state.is_hyper_param_search, "search without growth"),
        "eval_strategy='no'": (
            args.eval_strategy == "no",
            "growth decides where the trainer evaluates: set eval_strategy='epoch' or 'steps'",
        ),
        "load_best_model_at_end": (
            args.load_best_model_at_end,
            "the best checkpoint may have had other seeds: set it to False",
        ),
        "activation_checkpointing": (
            getattr(model, "is_activation_checkpointing", False),
            "it computes activations anew, with other tensors than a seed's pass: set it to False",
        ),
        "auto_find_batch_size": (args.auto_find_batch_size, "set per_device_train_batch_size"),
        "torch_compile": (args.torch_compile, "growth changes the model: set it to False"),
        "label_smoothing_factor": (
            args.label_smoothing_factor,
            "it takes the labels away from the model: set it to 0 and let the model smooth",
        ),
    }
    for what, (is_set, remedy) in refused.items():
        if is_set:
            raise UnsupportedLoopError(f"growth cannot follow {what}; {remedy}")


def _precision(args: TrainingArguments) -> PrecisionName:
    return "16-mixed" if args.fp16 else "bf16-mixed" if args.bf16 else "32"


def _clip(args: TrainingArguments) -> Clip | None:
    """Return how the trainer limits gradients: those of the whole model together."""
    limit = args.max_grad_norm
    if not limit:
        return None
    return lambda model, optimizer: clip_grad_norm_(model.parameters(), limit)


def _boundaries(args: TrainingArguments, state: TrainerState) -> int | None:
    """Return how often this training evaluates, where that is known beforehand."""
    if args.eval_delay:
        return None
    if args.eval_strategy == "epoch":
        return state.num_train_epochs
    return math.ceil(state.max_steps / state.eval_steps)


def _checkpoint(args: TrainingArguments, state: TrainerState) -> Path:
    return Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"


def _was_saved_with(optimizer: Optimizer, grower: Mapping[str, Any]) -> bool:
    """Whether the optimizer that the trainer has restored is the one in a grower's state.

    Where the trainer has restored none, there is nothing to tell by. The weights are no sign: the
    trainer may have loaded them under other names, or not at all.
    """
    branch = grower["branch"] or grower["executor"]["branch"]
    restored, saved = optimizer.state_dict()["state"], branch["optimizer"]["state"]
    return not restored or (
        restored.keys() == saved.keys()
        and all(
            torch.equal(value.cpu(), saved[index][name])
            for index, entry in restored.items()
            for name, value in entry.items()
            if isinstance(value, Tensor)
        )
    )
